from datetime import UTC, datetime, timedelta

import pytest

from runtime.settings import Settings
from workers.retention.cutoffs import compute_cutoffs

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def days(**values: float) -> dict[str, float]:
    """Return how many days each bound lies back."""
    bounds = compute_cutoffs(Settings.model_validate(values), NOW)
    return {name: (NOW - getattr(bounds, name)) / timedelta(days=1) for name in bounds.__slots__}


def test_rows_are_kept_as_long_as_the_contract_says() -> None:
    """The defaults."""
    assert days() == {
        "ids": 17,
        "webhooks": 90,
        "bodies": 30,
        "failures": 180,
        "observations": 365,
        "events": 365,
        "deliveries": 30,
        "rejections": 14,
    }


@pytest.mark.parametrize("wanted", [0, 16.9])
def test_event_ids_stay_whatever_is_set(wanted: float) -> None:
    """Three days in which Meld sends a webhook again, and fourteen more."""
    assert days(retain_webhooks_days=wanted)["webhooks"] == 17


def test_what_would_still_be_taken_is_still_known() -> None:
    """Where old signatures are accepted for longer, ids stay for longer."""
    bounds = days(retain_webhooks_days=20, webhook_max_age_seconds=30 * 86400, webhook_max_skew_seconds=86400)

    assert (bounds["ids"], bounds["webhooks"]) == (31, 31)


def test_nothing_need_be_kept_but_ids() -> None:
    """0 days is as soon as it is allowed to."""
    names = ("bodies", "failures", "observations", "events", "deliveries", "rejections")
    bounds = days(**{f"retain_{name}_days": 0 for name in names})

    assert [bounds[name] for name in names] == [0] * 6
