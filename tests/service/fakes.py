"""Fakes for tests of the API: a clock that is set by hand, a broker that can be away."""

from datetime import UTC, datetime, timedelta

from runtime.errors import OutOfReachError


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Tell the time."""
        return self.now

    def move(self, seconds: float) -> None:
        """Move on, or back."""
        self.now += timedelta(seconds=seconds)


class FakeBroker:
    """A broker that answers, or is away, and counts how often it was asked."""

    def __init__(self) -> None:
        self.is_away = False
        self.pings = 0

    def ping(self) -> None:
        """Give a sign of life, or none."""
        self.pings += 1
        if self.is_away:
            raise OutOfReachError("The broker does not answer.")
