"""Fakes for tests of the API: a clock that is moved by hand, a broker that can be out of reach."""

from datetime import UTC, datetime, timedelta

from runtime.errors import OutOfReachError


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the current time of the fake."""
        return self.now

    def move(self, seconds: float) -> None:
        """Move the time forward, or back."""
        self.now += timedelta(seconds=seconds)


class FakeBroker:
    """A broker that answers, or is out of reach, and counts the pings."""

    def __init__(self) -> None:
        self.is_away = False
        self.pings = 0

    def ping(self) -> None:
        """Return, or raise if the broker is out of reach."""
        self.pings += 1
        if self.is_away:
            raise OutOfReachError("The broker does not answer.")
