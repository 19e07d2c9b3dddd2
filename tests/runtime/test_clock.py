from datetime import UTC, datetime

from runtime.clock import utcnow


def test_the_present_is_aware_utc() -> None:
    """The present is UTC, and lies between two readings of another clock."""
    before = datetime.now(UTC)

    now = utcnow()

    assert before <= now <= datetime.now(UTC)
    assert now.tzinfo is UTC
