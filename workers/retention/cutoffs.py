"""Keep: for how long rows are kept, as the operator has set it, and never shorter than they are needed. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from runtime.settings import Settings

RETRY_DAYS = 3.0
"""How long Meld sends a webhook again."""

LATE_DAYS = 14.0
"""How much longer its event id is kept, whatever the operator has set, so that no late repeat is new again."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """For each kind of row the time before which it may go, if it is not owed. Of a run, all are taken at its start.

    ``ids`` is that of event ids, whatever became of the webhook.
    """

    ids: datetime
    webhooks: datetime
    bodies: datetime
    failures: datetime
    observations: datetime
    events: datetime
    deliveries: datetime
    rejections: datetime


def bounds_of(settings: Settings, now: datetime) -> Bounds:
    """Return the bounds at a time.

    An event id stays as long as Meld might send it again, with room; and as long as anybody might who has caught a
    webhook: until its signature is too old to be taken.
    """
    signed = timedelta(seconds=settings.webhook_max_age_seconds + settings.webhook_max_skew_seconds)
    known = max(timedelta(days=RETRY_DAYS + LATE_DAYS), signed)
    return Bounds(
        ids=now - known,
        webhooks=now - max(timedelta(days=settings.retain_webhooks_days), known),
        bodies=now - timedelta(days=settings.retain_bodies_days),
        failures=now - timedelta(days=settings.retain_failures_days),
        observations=now - timedelta(days=settings.retain_observations_days),
        events=now - timedelta(days=settings.retain_events_days),
        deliveries=now - timedelta(days=settings.retain_deliveries_days),
        rejections=now - timedelta(days=settings.retain_rejections_days),
    )
