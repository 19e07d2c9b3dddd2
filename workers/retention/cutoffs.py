"""Retention cutoffs: for each kind of row the time before which it has expired, from the retention settings. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from runtime.settings import Settings

MELD_RETRY_DAYS = 3.0
"""How long Meld retries a webhook. Source: Meld's documentation."""

EVENT_ID_MARGIN_DAYS = 14.0
"""How much longer its event id is kept, whatever the settings say: a late duplicate must not count as new."""


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """For each kind of row the time before which it has expired. A run computes them once, at its start.

    ``event_ids`` bounds all removal of webhook rows, since their event ids detect duplicates.
    """

    event_ids: datetime
    webhooks: datetime
    bodies: datetime
    failures: datetime
    observations: datetime
    events: datetime
    deliveries: datetime
    rejections: datetime


def compute_cutoffs(settings: Settings, now: datetime) -> Cutoffs:
    """Return the cutoffs as of a time.

    An event id is kept as long as Meld may send the webhook again, with a margin. It is also kept as long as its
    signature is accepted: until then, anybody who has intercepted the webhook could replay it.
    """
    signature_valid = timedelta(seconds=settings.webhook_max_age_seconds + settings.webhook_max_skew_seconds)
    id_kept = max(timedelta(days=MELD_RETRY_DAYS + EVENT_ID_MARGIN_DAYS), signature_valid)
    return Cutoffs(
        event_ids=now - id_kept,
        webhooks=now - max(timedelta(days=settings.retain_webhooks_days), id_kept),
        bodies=now - timedelta(days=settings.retain_bodies_days),
        failures=now - timedelta(days=settings.retain_failures_days),
        observations=now - timedelta(days=settings.retain_observations_days),
        events=now - timedelta(days=settings.retain_events_days),
        deliveries=now - timedelta(days=settings.retain_deliveries_days),
        rejections=now - timedelta(days=settings.retain_rejections_days),
    )
