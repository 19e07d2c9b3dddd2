from datetime import UTC, datetime, timedelta

import pytest

from runtime.settings import Settings
from workers.retention.cutoffs import compute_cutoffs

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def days(**values: float) -> dict[str, float]:
    """Return the age of each cutoff, in days."""
    cutoffs = compute_cutoffs(Settings.model_validate(values), NOW)
    return {name: (NOW - getattr(cutoffs, name)) / timedelta(days=1) for name in cutoffs.__slots__}


def test_rows_are_kept_as_long_as_the_contract_says() -> None:
    """The defaults."""
    assert days() == {
        "event_ids": 17,
        "webhooks": 90,
        "bodies": 30,
        "failures": 180,
        "observations": 365,
        "events": 365,
        "deliveries": 30,
        "rejections": 14,
    }


@pytest.mark.parametrize("wanted", [0, 16.9])
def test_event_ids_are_kept_whatever_is_set(wanted: float) -> None:
    """For the three days in which Meld retries a webhook, and fourteen more."""
    assert days(retain_webhooks_days=wanted)["webhooks"] == 17


def test_event_ids_are_kept_as_long_as_their_signature_is_accepted() -> None:
    """If old signatures are accepted for longer, event ids are kept for longer."""
    cutoffs = days(retain_webhooks_days=20, webhook_max_age_seconds=30 * 86400, webhook_max_skew_seconds=86400)

    assert (cutoffs["event_ids"], cutoffs["webhooks"]) == (31, 31)


def test_only_event_ids_have_a_minimum() -> None:
    """0 days: rows expire as soon as no read or delivery needs them."""
    names = ("bodies", "failures", "observations", "events", "deliveries", "rejections")
    cutoffs = days(**{f"retain_{name}_days": 0 for name in names})

    assert [cutoffs[name] for name in names] == [0] * 6
