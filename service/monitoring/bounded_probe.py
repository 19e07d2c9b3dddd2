"""Bounded probe: runs a check that may hang, with a timeout for the caller, one run at a time, and a cached result."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from runtime.clock import Clock

T = TypeVar("T")


class BoundedProbe(Generic[T]):
    """A check and its last result. At most one thread runs the check, however long it takes.

    Args:
        check: The check; may block.
        clock: Returns the present time.
        max_age: How long a result is returned again without another run.
    """

    def __init__(self, check: Callable[[], T], *, clock: Clock, max_age: timedelta) -> None:
        self._check = check
        self._clock = clock
        self._max_age = max_age
        self._lock = threading.Lock()
        self._last: tuple[datetime, Future[T]] | None = None

    async def result(self, timeout_seconds: float) -> T | None:
        """Return the check's result, or raise its exception; None if there is no result in time."""
        future = asyncio.wrap_future(self._current_run())
        await asyncio.wait([future], timeout=timeout_seconds)
        return future.result() if future.done() else None

    def _current_run(self) -> Future[T]:
        now = self._clock()
        with self._lock:
            if self._last is not None:
                started_at, future = self._last
                # A clock that was set back must not prolong the age.
                if not future.done() or timedelta(0) <= now - started_at < self._max_age:
                    return future
            future = Future()
            self._last = now, future
        # Not a pool's thread: the interpreter waits for those when it ends.
        threading.Thread(target=self._run, args=(future,), name="probe", daemon=True).start()
        return future

    def _run(self, future: Future[T]) -> None:
        try:
            future.set_result(self._check())
        except Exception as error:  # noqa: BLE001 - ``result`` raises it
            future.set_exception(error)
