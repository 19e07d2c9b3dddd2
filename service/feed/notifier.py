"""Feed: wakes those who wait for the next event.

However many wait, one thread asks the database how far the feed has grown, and only while somebody waits. It asks at
once when it is told so with ``notify``, by this process after a commit of its own, or by ``Listen`` after another's;
and now and then without a word, since one may be lost.
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
"""How long a commit that nobody told of stays unseen."""

RETRY_SECONDS = 1.0
"""The pause after a look that failed."""


def last_position(session: Session) -> int:
    """Return the last position in use. No event will ever be added at or before it.

    Positions are taken in commit order, from this very row: whoever sees it at 7 can see all events up to 7.
    """
    return session.exec(select(FeedCounterRow.value).where(FeedCounterRow.name == "feed")).first() or 0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    beyond: int
    loop: asyncio.AbstractEventLoop
    grown: asyncio.Event


class FeedNotifier:
    """The end of the feed, for those who wait for it to move. One per process, for any number of event loops.

    Args:
        database: Where the feed is.
        poll_seconds: How often it is looked at while somebody waits, told or not.
    """

    def __init__(self, *, database: Database, poll_seconds: float = POLL_SECONDS) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._waiters: set[_Waiter] = set()
        self._end = 0
        self._is_polling = False
        self._is_closed = False
        self._stir = threading.Event()

    async def wait(self, beyond: int, seconds: float) -> None:
        """Wait until the feed has grown beyond a position, for so many seconds at most, or until it is closed."""
        waiter = _Waiter(beyond, asyncio.get_running_loop(), asyncio.Event())
        if not self._enter(waiter):
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiter.grown.wait()
        finally:
            self._leave(waiter)

    def notify(self) -> None:
        """Look at once whether the feed has grown. Called from any thread, after the commit of an event."""
        self._stir.set()

    def close(self) -> None:
        """Let everybody go, now and from now on: the process is about to end."""
        with self._lock:
            self._is_closed = True
            waiters = list(self._waiters)
        self._stir.set()
        _release(waiters)

    @property
    def is_closed(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_closed

    def _enter(self, waiter: _Waiter) -> bool:
        with self._lock:
            if self._is_closed:
                return False
            self._waiters.add(waiter)
            # What came between the caller's look and this was told to others, who were here already. It is looked at
            # again, not believed: a database that was restored from a backup has a shorter feed than it had.
            if self._end > waiter.beyond:
                self._stir.set()
            # The thread ends with the last waiter, under this lock: it is never missed, and never there twice.
            if not self._is_polling:
                self._is_polling = True
                threading.Thread(target=self._poll, name="feed", daemon=True).start()
            return True

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._stir.set()

    def _poll(self) -> None:
        while self._is_awaited():
            self._stir.clear()
            try:
                with self._database.read() as session:
                    end = last_position(session)
            except Exception as error:  # noqa: BLE001 - whatever it was, those who wait are owed another look
                log.warning("feed not read", error=type(error).__name__, detail=str(error))
                self._stir.wait(RETRY_SECONDS)
                continue
            with self._lock:
                self._end = end
                waiters = [waiter for waiter in self._waiters if end > waiter.beyond]
                self._waiters.difference_update(waiters)
            _release(waiters)
            self._stir.wait(self._poll_seconds)

    def _is_awaited(self) -> bool:
        with self._lock:
            self._is_polling = bool(self._waiters) and not self._is_closed
            return self._is_polling


def _release(waiters: Iterable[_Waiter]) -> None:
    """Wake waiters with one hand-over to each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Waiter]] = {}
    for waiter in waiters:
        loops.setdefault(waiter.loop, []).append(waiter)
    for loop, group in loops.items():
        with suppress(RuntimeError):  # the loop has ended, and with it those who waited
            loop.call_soon_threadsafe(_set, group)


def _set(waiters: Iterable[_Waiter]) -> None:
    for waiter in waiters:
        waiter.grown.set()
