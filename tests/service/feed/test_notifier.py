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
"""A timeout, in seconds, that no test reaches."""


@contextmanager
def counting(database: Database) -> Iterator[list[str]]:
    """Collect the polls of the last position."""
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
    """Return the polling threads."""
    return [thread for thread in threading.enumerate() if thread.name == "feed"]


def test_the_last_position(database: Database) -> None:
    """The position of the newest event, and 0 before the first."""
    with database.read() as session:
        before = last_position(session)
    row_factory.store(database, row_factory.event(1), row_factory.event(2))
    with database.read() as session:
        after = last_position(session)

    assert (before, after) == (0, 2)


def test_an_event_wakes_a_reader(database: Database) -> None:
    """Also without a notification, within a second."""
    feed = FeedNotifier(database=database)

    async def scene() -> None:
        waiting = asyncio.create_task(feed.wait(0, LONG))
        await asyncio.to_thread(eventually, lambda: feed._waiters)
        await asyncio.to_thread(row_factory.store, database, row_factory.event(1))
        await asyncio.wait_for(waiting, 1)

    asyncio.run(scene())


def test_an_existing_event_needs_no_waiting(database: Database) -> None:
    """The wait returns at once."""
    row_factory.store(database, row_factory.event(1))

    asyncio.run(asyncio.wait_for(FeedNotifier(database=database).wait(0, LONG), 5))


def test_a_wait_ends_with_its_timeout(database: Database) -> None:
    """Without an event."""
    began = time.monotonic()

    asyncio.run(FeedNotifier(database=database).wait(0, 0.2))

    assert 0.2 <= time.monotonic() - began < 5


def test_notify_wakes_at_once(database: Database) -> None:
    """Without waiting for the next poll."""
    feed = FeedNotifier(database=database, poll_seconds=LONG)

    async def scene() -> None:
        waiting = asyncio.create_task(feed.wait(0, LONG))
        with counting(database) as looks:
            await asyncio.to_thread(eventually, lambda: looks)
        await asyncio.to_thread(row_factory.store, database, row_factory.event(1))
        threading.Thread(target=feed.notify).start()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scene())


def test_a_late_reader_is_woken_too(database: Database) -> None:
    """By an event between its query and its wait, which was notified already."""
    feed = FeedNotifier(database=database, poll_seconds=LONG)

    async def scene() -> None:
        others = asyncio.create_task(feed.wait(10, LONG))
        await asyncio.to_thread(eventually, lambda: feed._waiters)
        await asyncio.to_thread(row_factory.store, database, row_factory.event(1))
        feed.notify()
        await asyncio.to_thread(eventually, lambda: feed._last_position == 1)
        await asyncio.wait_for(feed.wait(0, LONG), 5)
        others.cancel()

    asyncio.run(scene())


def test_a_feed_may_shrink(database: Database) -> None:
    """After a restore from a backup, missing events wake no reader."""
    row_factory.store(database, row_factory.event(9))
    feed = FeedNotifier(database=database, poll_seconds=LONG)

    async def scene() -> float:
        others = asyncio.create_task(feed.wait(10, LONG))
        await asyncio.to_thread(eventually, lambda: feed._last_position == 9)
        with database.write() as session:
            session.exec(update(FeedCounterRow).where(col(FeedCounterRow.name) == "feed").values(value=4))
        began = time.monotonic()
        await feed.wait(4, 0.3)
        others.cancel()
        return time.monotonic() - began

    assert asyncio.run(scene()) >= 0.3


def test_close_wakes_all_readers(database: Database) -> None:
    """Waiting ones and later ones."""
    feed = FeedNotifier(database=database, poll_seconds=LONG)

    async def scene() -> None:
        waiting = [asyncio.create_task(feed.wait(0, LONG)) for _ in range(10)]
        await asyncio.to_thread(eventually, lambda: len(feed._waiters) == 10)
        threading.Thread(target=feed.close).start()
        await asyncio.wait_for(asyncio.gather(*waiting, feed.wait(0, LONG)), 5)

    asyncio.run(scene())

    assert feed.is_closed


def test_a_thousand_readers_cost_one_poll(database: Database) -> None:
    """The number of queries does not depend on the number of readers."""
    feed = FeedNotifier(database=database, poll_seconds=0.05)

    async def scene() -> tuple[int, float]:
        began = time.monotonic()
        with counting(database) as looks:
            await asyncio.gather(*(feed.wait(0, 0.5) for _ in range(1000)))
        return len(looks), time.monotonic() - began

    looks, seconds = asyncio.run(scene())

    assert 1 <= looks <= seconds / 0.05 + 1


def test_there_are_no_polls_without_readers(database: Database) -> None:
    """The thread ends with the last reader, and starts with the next."""
    feed = FeedNotifier(database=database)

    for _ in range(2):
        asyncio.run(feed.wait(0, 0.1))
        eventually(lambda: not pollers())

    assert set() == feed._waiters


def test_readers_of_several_event_loops_are_woken(database: Database) -> None:
    """A notifier belongs to no event loop."""
    feed = FeedNotifier(database=database)
    threads = [threading.Thread(target=lambda: asyncio.run(feed.wait(0, LONG))) for _ in range(3)]

    for thread in threads:
        thread.start()
    eventually(lambda: len(feed._waiters) == 3)
    row_factory.store(database, row_factory.event(1))
    for thread in threads:
        thread.join(5)

    assert [thread.is_alive() for thread in threads] == [False] * 3


def test_an_unreachable_database_blocks_no_reader(unreachable_database: Database) -> None:
    """Waits end with their timeout, and the next reader starts polling again."""
    feed = FeedNotifier(database=unreachable_database)

    for _ in range(2):
        asyncio.run(asyncio.wait_for(feed.wait(0, 0.1), 5))
    feed.close()

    eventually(lambda: not pollers())
