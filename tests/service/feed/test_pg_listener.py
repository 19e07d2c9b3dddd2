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
"""The bound that is promised, from a commit to the wake-up."""


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """The database of the process that listens: PostgreSQL, since no other can tell."""
    database = Database(postgres_url, pool_size=2)
    yield database
    database.close()


@pytest.fixture
def other(postgres_url: str) -> Iterator[Database]:
    """The same database, as another process has it."""
    other = Database(postgres_url, pool_size=2)
    yield other
    other.close()


@contextmanager
def listening(database: Database) -> Iterator[threading.Event]:
    """Listen, and give what is set when something is heard; the first look, of the beginning, is over by then."""
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
    """Commit what a worker commits with its events."""
    with database.write() as session:
        session.exec(select(database.notify_expression(FEED_CHANNEL))).one()


def listeners(postgres_url: str) -> list[int]:
    """Return the servers of the connections that listen."""
    found = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = %s"
    with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
        return [row[0] for row in connection.execute(found, [f'LISTEN "{FEED_CHANNEL}"']).fetchall()]


def test_it_hears_of_a_commit(database: Database, other: Database) -> None:
    """Of another process, and each time anew."""
    with listening(database) as heard:
        for _ in range(3):
            tell(other)
            assert heard.wait(SOON)
            heard.clear()


def test_it_hears_nothing_of_what_was_not_committed(database: Database, other: Database) -> None:
    """A transaction that rolls back, or is not over yet, tells nothing."""
    with listening(database) as heard:
        with suppress(ZeroDivisionError), other.write() as session:
            session.exec(select(other.notify_expression(FEED_CHANNEL))).one()
            _ = 1 / 0

        assert not heard.wait(0.3)


def test_a_lost_connection_is_made_anew(database: Database, other: Database, postgres_url: str) -> None:
    """The feed is looked at once it is there again, since what was told meanwhile is lost; the next commit is heard."""
    with listening(database) as heard:
        (pid,) = listeners(postgres_url)
        with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        assert heard.wait(5), "nobody looked for what was committed meanwhile"
        heard.clear()
        tell(other)

        assert heard.wait(SOON)


def test_it_takes_nothing_from_the_pool(database: Database) -> None:
    """Whoever works on the rows finds as many connections as before."""
    with listening(database), database.read() as first, database.read() as second:
        assert [session.exec(select(1)).one() for session in (first, second)] == [1, 1]


def test_it_leaves_nothing_behind(database: Database, postgres_url: str) -> None:
    """Its connection ends with it."""
    with listening(database):
        eventually(lambda: listeners(postgres_url))

    eventually(lambda: not listeners(postgres_url))


def test_a_database_that_is_away_does_not_end_it() -> None:
    """It tries on, and ends when it is told to."""
    away = Database("postgresql://nobody@127.0.0.1:1/nothing")
    told: list[Any] = []
    listen = PgListener(database=away, notify=lambda: told.append(1))

    listen.start()
    is_alive = listen.is_alive()
    listen.stop()
    away.close()

    assert (is_alive, listen.is_alive(), told) == (True, False, [])
