"""Log of the reads that clients made of Meld's simulated API: times, outcomes, counts for each connection."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

from simulator.ids import format_time
from simulator.thread_lock import synchronized

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

#: Far more than a test makes. The counts include older reads too.
MAX_RECORDED_READS = 100_000


@dataclass(slots=True, kw_only=True)
class RecordedRead:
    """One read of a connection, or of the list (connection_id None). No status means that no answer was sent."""

    number: int
    connection_id: str | None
    began_at: datetime
    ended_at: datetime | None = None
    status: int | None = None
    outcome: str = "under way"

    def view(self) -> dict[str, Any]:
        """Return the read as JSON."""
        return {
            "number": self.number,
            "connectionId": self.connection_id,
            "began": format_time(self.began_at),
            "ended": format_time(self.ended_at) if self.ended_at else None,
            "status": self.status,
            "outcome": self.outcome,
        }


class ReadLog:
    """The latest reads, and the count of all reads."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.lock = RLock()
        self._clock = clock
        self.clear()

    @synchronized
    def clear(self) -> None:
        """Delete all records and counts; reads under way end unrecorded."""
        self._reads: deque[RecordedRead] = deque(maxlen=MAX_RECORDED_READS)
        self._counts: Counter[str | None] = Counter()

    @synchronized
    def begin(self, connection_id: str | None) -> RecordedRead:
        """Record the start of a read."""
        self._counts[connection_id] += 1
        read = RecordedRead(number=self._counts.total(), connection_id=connection_id, began_at=self._clock())
        self._reads.append(read)
        return read

    @synchronized
    def end(self, read: RecordedRead, outcome: str, status: int | None = None) -> None:
        """Record the end of a read."""
        read.ended_at = self._clock()
        read.outcome = outcome
        read.status = status

    @synchronized
    def all(self) -> list[RecordedRead]:
        """Return the recorded reads in the order they began."""
        return list(self._reads)

    @synchronized
    def count(self, connection_id: str | None) -> int:
        """Return how many reads of a connection, or of the list (None), have begun."""
        return self._counts[connection_id]

    @synchronized
    def counts(self) -> dict[str, int]:
        """Return how many reads of each connection have begun."""
        return {connection_id: count for connection_id, count in self._counts.items() if connection_id is not None}
