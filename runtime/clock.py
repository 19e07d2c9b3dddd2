"""Time as a value: whoever needs the time is handed a ``Clock``."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present as an aware UTC time."""


def utcnow() -> datetime:
    """Return the present, UTC."""
    return datetime.now(UTC)
