"""Notifies readers that wait for the next event of the feed (long poll and server-sent events).

However many readers wait, one thread polls the last position in the database, and only while a reader waits. ``notify``
makes it poll at once: this process calls it after its own commits, ``PgListener`` after those of other processes.
Besides that it polls periodically, because a notification may be lost.
"""

import asyncio
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from sqlmodel import Session, select

from runtime import logs
from runtime.database import Database
from schemas.tables import FeedCounterRow

log = logs.get_logger(__name__)

POLL_SECONDS = 0.5
"""How long a commit without a notification stays unnoticed."""

RETRY_SECONDS = 1.0
"""The pause after a failed poll."""


def last_position(session: Session) -> int:
    """Return the position of the newest event. No event is ever added at or before it.

    Positions are assigned in commit order from this row: a transaction that reads 7 sees all events up to 7.
    """
    return session.exec(select(FeedCounterRow.value).where(FeedCounterRow.name == "feed")).first() or 0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    after: int
    loop: asyncio.AbstractEventLoop
    event: asyncio.Event


class FeedNotifier:
    """Wakes waiting readers when the feed grows. One per process, for any number of event loops.

    Args:
        database: The database.
        poll_seconds: Time between two polls without a notification.
    """

    def __init__(self, *, database: Database, poll_seconds: float = POLL_SECONDS) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._waiters: set[_Waiter] = set()
        self._last_position = 0
        self._is_polling = False
        self._is_closed = False
        self._poll_now = threading.Event()

    async def wait(self, after: int, timeout_seconds: float) -> None:
        """Return when there is an event after a position, after the timeout, or when the notifier is closed."""
        waiter = _Waiter(after, asyncio.get_running_loop(), asyncio.Event())
        if not self._add(waiter):
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await waiter.event.wait()
        finally:
            self._remove(waiter)

    def notify(self) -> None:
        """Poll at once. Called from any thread, after the commit of an event."""
        self._poll_now.set()

    def close(self) -> None:
        """Wake all readers, and let later ones not wait: the process is about to end."""
        with self._lock:
            self._is_closed = True
            waiters = list(self._waiters)
        self._poll_now.set()
        _wake(waiters)

    @property
    def is_closed(self) -> bool:
        """Whether the notifier is closed."""
        return self._is_closed

    def _add(self, waiter: _Waiter) -> bool:
        with self._lock:
            if self._is_closed:
                return False
            self._waiters.add(waiter)
            # An event between the caller's query and this call may have been polled for earlier readers already. Poll
            # again: after a restore from a backup the feed is shorter than the known position.
            if self._last_position > waiter.after:
                self._poll_now.set()
            # The thread ends with the last reader, under this lock: there is always exactly one while a reader waits.
            if not self._is_polling:
                self._is_polling = True
                threading.Thread(target=self._poll, name="feed", daemon=True).start()
            return True

    def _remove(self, waiter: _Waiter) -> None:
        with self._lock:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._poll_now.set()

    def _poll(self) -> None:
        while self._should_poll():
            self._poll_now.clear()
            try:
                with self._database.read() as session:
                    end = last_position(session)
            except Exception as error:  # noqa: BLE001 - readers wait for the next poll, whatever the error
                log.warning("feed not read", error=type(error).__name__, detail=str(error))
                self._poll_now.wait(RETRY_SECONDS)
                continue
            with self._lock:
                self._last_position = end
                waiters = [waiter for waiter in self._waiters if end > waiter.after]
                self._waiters.difference_update(waiters)
            _wake(waiters)
            self._poll_now.wait(self._poll_seconds)

    def _should_poll(self) -> bool:
        with self._lock:
            self._is_polling = bool(self._waiters) and not self._is_closed
            return self._is_polling


def _wake(waiters: Iterable[_Waiter]) -> None:
    """Wake readers with one call into each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Waiter]] = {}
    for waiter in waiters:
        loops.setdefault(waiter.loop, []).append(waiter)
    for loop, group in loops.items():
        with suppress(RuntimeError):  # the loop was closed, and its readers with it
            loop.call_soon_threadsafe(_set_events, group)


def _set_events(waiters: Iterable[_Waiter]) -> None:
    for waiter in waiters:
        waiter.event.set()
