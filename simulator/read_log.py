"""The reads that have been made, and the script for those to come."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

from simulator.ids import iso
from simulator.thread_lock import exclusive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from simulator.faults.read_script import ScriptedRead

#: Far more than a test makes; the counts go on beyond it.
READS_KEPT = 100_000


@dataclass(slots=True, kw_only=True)
class RecordedRead:
    """One read of a connection, or of the list (None); without a status it got no answer."""

    number: int
    connection_id: str | None
    began_at: datetime
    ended_at: datetime | None = None
    status: int | None = None
    outcome: str = "under way"

    def view(self) -> dict[str, Any]:
        """The read as JSON."""
        return {
            "number": self.number,
            "connectionId": self.connection_id,
            "began": iso(self.began_at),
            "ended": iso(self.ended_at) if self.ended_at else None,
            "status": self.status,
            "outcome": self.outcome,
        }


class ReadLog:
    """The record of all reads."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.lock = RLock()
        self._clock = clock
        self.clear()

    @exclusive
    def clear(self) -> None:
        """Forget them; those under way end unrecorded."""
        self._reads: deque[RecordedRead] = deque(maxlen=READS_KEPT)
        self._counts: Counter[str | None] = Counter()

    @exclusive
    def begin(self, connection_id: str | None) -> RecordedRead:
        """Record that a read has come in."""
        self._counts[connection_id] += 1
        read = RecordedRead(number=self._counts.total(), connection_id=connection_id, began_at=self._clock())
        self._reads.append(read)
        return read

    @exclusive
    def end(self, read: RecordedRead, outcome: str, status: int | None = None) -> None:
        """Record how it ended."""
        read.ended_at = self._clock()
        read.outcome = outcome
        read.status = status

    @exclusive
    def all(self) -> list[RecordedRead]:
        """Every read on record, in the order they began."""
        return list(self._reads)

    @exclusive
    def count(self, connection_id: str | None) -> int:
        """How many reads of that connection, or of the list, have begun."""
        return self._counts[connection_id]

    @exclusive
    def counts(self) -> dict[str, int]:
        """How many reads each connection has had."""
        return {connection_id: count for connection_id, count in self._counts.items() if connection_id is not None}


class Script:
    """What is to be done to the next reads, each step once."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.clear()

    @exclusive
    def clear(self) -> None:
        """Forget all steps."""
        self._steps: defaultdict[str | None, deque[ScriptedRead]] = defaultdict(deque)

    @exclusive
    def add(self, connection_id: str | None, steps: Iterable[ScriptedRead]) -> None:
        """Append steps for the next reads of a connection, or of the list."""
        self._steps[connection_id].extend(steps)

    @exclusive
    def take(self, connection_id: str | None) -> ScriptedRead | None:
        """The next step, if there is one."""
        steps = self._steps.get(connection_id)
        return steps.popleft() if steps else None
