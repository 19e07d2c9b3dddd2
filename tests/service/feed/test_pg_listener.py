import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg
import pytest
from sqlmodel import select

from runtime.database import Database
from schemas.message_names import FEED_CHANNEL
from service.feed.pg_listener import PgListener
from tests.support.polling import eventually

SOON = 1.0
"""The promised time from a commit to the notification."""


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """The PostgreSQL database of the listening process."""
    database = Database(postgres_url, pool_size=2)
    yield database
    database.close()


@pytest.fixture
def other(postgres_url: str) -> Iterator[Database]:
    """The same database in another process."""
    other = Database(postgres_url, pool_size=2)
    yield other
    other.close()


@contextmanager
def listening(database: Database) -> Iterator[threading.Event]:
    """Run a listener; yield the event that a notification sets, after the first one at the start."""
    heard = threading.Event()
    listen = PgListener(database=database, notify=heard.set)
    listen.start()
    try:
        assert heard.wait(5)
        heard.clear()
        yield heard
    finally:
        listen.stop()
        assert not listen.is_alive()


def tell(database: Database) -> None:
    """Commit an event as a worker does."""
    with database.write() as session:
        session.exec(select(database.notify_expression(FEED_CHANNEL))).one()


def listeners(postgres_url: str) -> list[int]:
    """Return the server processes of the listening connections."""
    found = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = %s"
    with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
        return [row[0] for row in connection.execute(found, [f'LISTEN "{FEED_CHANNEL}"']).fetchall()]


def test_a_commit_notifies(database: Database, other: Database) -> None:
    """Of another process, each time."""
    with listening(database) as heard:
        for _ in range(3):
            tell(other)
            assert heard.wait(SOON)
            heard.clear()


def test_without_a_commit_there_is_no_notification(database: Database, other: Database) -> None:
    """A transaction that rolls back, or is still open, does not notify."""
    with listening(database) as heard:
        with suppress(ZeroDivisionError), other.write() as session:
            session.exec(select(other.notify_expression(FEED_CHANNEL))).one()
            _ = 1 / 0

        assert not heard.wait(0.3)


def test_it_connects_again_after_a_lost_connection(database: Database, other: Database, postgres_url: str) -> None:
    """The new connection notifies once, for what was missed; the next commit notifies too."""
    with listening(database) as heard:
        (pid,) = listeners(postgres_url)
        with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        assert heard.wait(5), "nobody looked for what was committed meanwhile"
        heard.clear()
        tell(other)

        assert heard.wait(SOON)


def test_it_takes_no_connection_from_the_pool(database: Database) -> None:
    """Other threads have as many connections as before."""
    with listening(database), database.read() as first, database.read() as second:
        assert [session.exec(select(1)).one() for session in (first, second)] == [1, 1]


def test_its_connection_is_closed_at_the_end(database: Database, postgres_url: str) -> None:
    """No listening connection is left."""
    with listening(database):
        eventually(lambda: listeners(postgres_url))

    eventually(lambda: not listeners(postgres_url))


def test_an_unreachable_database_does_not_end_it() -> None:
    """It tries again, and stops on request."""
    away = Database("postgresql://nobody@127.0.0.1:1/nothing")
    told: list[Any] = []
    listen = PgListener(database=away, notify=lambda: told.append(1))

    listen.start()
    is_alive = listen.is_alive()
    listen.stop()
    away.close()

    assert (is_alive, listen.is_alive(), told) == (True, False, [])
