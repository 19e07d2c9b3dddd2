import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, update
from sqlmodel import col

from runtime.database import Database
from schemas.tables import FeedCounterRow
from service.feed.notifier import FeedNotifier, last_position
from tests.support import row_factory
from tests.support.polling import eventually

LONG = 60.0
"""Seconds that no test waits: who comes back from this was woken."""


@contextmanager
def counting(database: Database) -> Iterator[list[str]]:
    """Collect the looks at the feed's end."""
    looks: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "FROM feed_counter" in statement:
            looks.append(statement)

    with database.read() as session:
        engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    yield looks
    event.remove(engine, "before_cursor_execute", note)


def pollers() -> list[threading.Thread]:
    """Return the threads that look at feeds."""
    return [thread for thread in threading.enumerate() if thread.name == "feed"]


def test_the_end_of_the_feed(database: Database) -> None:
    """It is the position of the newest event, and 0 before the first."""
    with database.read() as session:
        before = last_position(session)
    row_factory.store(database, row_factory.event(1), row_factory.event(2))
    with database.read() as session:
        after = last_position(session)

    assert (before, after) == (0, 2)


def test_who_waits_is_woken_by_an_event(database: Database) -> None:
    """Also by one that nobody told of, within a second."""
    feed = FeedNotifier(database=database)

    async def scene() -> None:
        waiting = asyncio.create_task(feed.wait(0, LONG))
        await asyncio.to_thread(eventually, lambda: feed._waiters)
        await asyncio.to_thread(row_factory.store, database, row_factory.event(1))
        await asyncio.wait_for(waiting, 1)

    asyncio.run(scene())


def test_who_asks_behind_the_end_does_not_wait(database: Database) -> None:
    """What is there already needs no new event."""
    row_factory.store(database, row_factory.event(1))

    asyncio.run(asyncio.wait_for(FeedNotifier(database=database).wait(0, LONG), 5))


def test_who_waits_goes_when_the_time_is_up(database: Database) -> None:
    """Without an event, after as long as was asked for."""
    began = time.monotonic()

    asyncio.run(FeedNotifier(database=database).wait(0, 0.2))

    assert 0.2 <= time.monotonic() - began < 5


def test_notify_wakes_at_once(database: Database) -> None:
    """A process that emits events does not wait for the next look."""
    feed = FeedNotifier(database=database, poll_seconds=LONG)

    async def scene() -> None:
        waiting = asyncio.create_task(feed.wait(0, LONG))
        with counting(database) as looks:
            await asyncio.to_thread(eventually, lambda: looks)
        await asyncio.to_thread(row_factory.store, database, row_factory.event(1))
        threading.Thread(target=feed.notify).start()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scene())


def test_who_comes_late_is_woken_too(database: Database) -> None:
    """An event that was told before one began to wait, and after one had looked, is not waited for."""
    feed = FeedNotifier(database=database, poll_seconds=LONG)

    async def scene() -> None:
        others = asyncio.create_task(feed.wait(10, LONG))
        await asyncio.to_thread(eventually, lambda: feed._waiters)
        await asyncio.to_thread(row_factory.store, database, row_factory.event(1))
        feed.notify()
        await asyncio.to_thread(eventually, lambda: feed._end == 1)
        await asyncio.wait_for(feed.wait(0, LONG), 5)
        others.cancel()

    asyncio.run(scene())


def test_a_feed_that_shrank_is_waited_for(database: Database) -> None:
    """After a restore from a backup, nobody is sent back to look for events that are not there any more."""
    row_factory.store(database, row_factory.event(9))
    feed = FeedNotifier(database=database, poll_seconds=LONG)

    async def scene() -> float:
        others = asyncio.create_task(feed.wait(10, LONG))
        await asyncio.to_thread(eventually, lambda: feed._end == 9)
        with database.write() as session:
            session.exec(update(FeedCounterRow).where(col(FeedCounterRow.name) == "feed").values(value=4))
        began = time.monotonic()
        await feed.wait(4, 0.3)
        others.cancel()
        return time.monotonic() - began

    assert asyncio.run(scene()) >= 0.3


def test_close_lets_everybody_go(database: Database) -> None:
    """Those who wait, and those who come later."""
    feed = FeedNotifier(database=database, poll_seconds=LONG)

    async def scene() -> None:
        waiting = [asyncio.create_task(feed.wait(0, LONG)) for _ in range(10)]
        await asyncio.to_thread(eventually, lambda: len(feed._waiters) == 10)
        threading.Thread(target=feed.close).start()
        await asyncio.wait_for(asyncio.gather(*waiting, feed.wait(0, LONG)), 5)

    asyncio.run(scene())

    assert feed.is_closed


def test_a_thousand_waiters_cost_one_look(database: Database) -> None:
    """The database is asked as often for a thousand as for one."""
    feed = FeedNotifier(database=database, poll_seconds=0.05)

    async def scene() -> tuple[int, float]:
        began = time.monotonic()
        with counting(database) as looks:
            await asyncio.gather(*(feed.wait(0, 0.5) for _ in range(1000)))
        return len(looks), time.monotonic() - began

    looks, seconds = asyncio.run(scene())

    assert 1 <= looks <= seconds / 0.05 + 1


def test_nobody_looks_when_nobody_waits(database: Database) -> None:
    """The thread ends with the last who waits, and comes back with the next."""
    feed = FeedNotifier(database=database)

    for _ in range(2):
        asyncio.run(feed.wait(0, 0.1))
        eventually(lambda: not pollers())

    assert set() == feed._waiters


def test_waiters_of_several_loops_are_woken(database: Database) -> None:
    """A feed belongs to no event loop."""
    feed = FeedNotifier(database=database)
    threads = [threading.Thread(target=lambda: asyncio.run(feed.wait(0, LONG))) for _ in range(3)]

    for thread in threads:
        thread.start()
    eventually(lambda: len(feed._waiters) == 3)
    row_factory.store(database, row_factory.event(1))
    for thread in threads:
        thread.join(5)

    assert [thread.is_alive() for thread in threads] == [False] * 3


def test_a_database_that_is_away_stops_nobody(unreachable_database: Database) -> None:
    """Those who wait go when their time is up, and the next ones are looked for again."""
    feed = FeedNotifier(database=unreachable_database)

    for _ in range(2):
        asyncio.run(asyncio.wait_for(feed.wait(0, 0.1), 5))
    feed.close()

    eventually(lambda: not pollers())
