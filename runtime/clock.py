"""Clock: the present time as a dependency, so that tests can control it."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present time, UTC, timezone-aware."""


def utcnow() -> datetime:
    """Return the present time, UTC."""
    return datetime.now(UTC)
