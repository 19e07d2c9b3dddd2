"""Scripted reads: faults for the next reads of one connection or of the list, one step for each read."""

from __future__ import annotations

from collections import defaultdict, deque
from threading import RLock
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from simulator.thread_lock import synchronized

if TYPE_CHECKING:
    from collections.abc import Iterable


class ScriptedRead(BaseModel):
    """The faults of one read. Whatever the delay, the answer shows the state of the moment the read began."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delay: Annotated[float, Field(ge=0)] = 0.0
    """Seconds before the answer, added to the latency of every read."""
    stale: Annotated[float, Field(ge=0)] = 0.0
    """Read lag: answer with the state of that many seconds ago."""
    shift: int = 0
    """Begin a page of the list that many items too early."""
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    """Answer with this status code; from 400 with Meld's error envelope, unless there is a body."""
    headers: dict[str, str] = {}
    """Add these headers to the answer."""
    body: Any = None
    """Answer with this instead of the real state: a string unchanged, anything else as JSON."""
    cut: bool = False
    """Abort the TCP connection instead of answering."""
    hang: bool = False
    """Never answer."""

    @property
    def has_body(self) -> bool:
        """Whether a body is set; null counts as one."""
        return "body" in self.model_fields_set


class ReadScript:
    """Queues of scripted reads; each step is used once."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.clear()

    @synchronized
    def clear(self) -> None:
        """Delete all steps."""
        self._steps: defaultdict[str | None, deque[ScriptedRead]] = defaultdict(deque)

    @synchronized
    def add(self, connection_id: str | None, steps: Iterable[ScriptedRead]) -> None:
        """Append steps for the next reads of a connection, or of the list (None)."""
        self._steps[connection_id].extend(steps)

    @synchronized
    def pop(self, connection_id: str | None) -> ScriptedRead | None:
        """Remove and return the next step, None if there is none."""
        steps = self._steps.get(connection_id)
        return steps.popleft() if steps else None
