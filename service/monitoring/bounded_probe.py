"""Probe: asks a question that may take for ever, without waiting for ever, or asking twice at a time."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from runtime.clock import Clock

T = TypeVar("T")


class BoundedProbe(Generic[T]):
    """A question, and its last answer.

    However many ask, and however long it takes, one thread is at it.

    Args:
        ask: Answers the question; may block.
        clock: The present.
        fresh: For how long an answer is given again without asking.
    """

    def __init__(self, ask: Callable[[], T], *, clock: Clock, fresh: timedelta) -> None:
        self._ask = ask
        self._clock = clock
        self._fresh = fresh
        self._lock = threading.Lock()
        self._asked: tuple[datetime, Future[T]] | None = None

    async def answer(self, seconds: float) -> T | None:
        """Return the answer, or raise what was raised; None where there is none within so many seconds."""
        answer = asyncio.wrap_future(self._current())
        await asyncio.wait([answer], timeout=seconds)
        return answer.result() if answer.done() else None

    def _current(self) -> Future[T]:
        now = self._clock()
        with self._lock:
            if self._asked is not None:
                asked_at, answer = self._asked
                # A clock that was set back makes no answer last longer.
                if not answer.done() or timedelta(0) <= now - asked_at < self._fresh:
                    return answer
            answer = Future()
            self._asked = now, answer
        # Not from a pool, whose threads the interpreter waits for when it ends.
        threading.Thread(target=self._settle, args=(answer,), name="probe", daemon=True).start()
        return answer

    def _settle(self, answer: Future[T]) -> None:
        try:
            answer.set_result(self._ask())
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            answer.set_exception(error)
