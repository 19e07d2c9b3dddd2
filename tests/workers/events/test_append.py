from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest

from runtime.database import Database
from schemas.message_names import FEED_CHANNEL
from tests.support.scripted_meld import ScriptedReader, make_refetcher
from tests.support.webhook_factory import body, store


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """A PostgreSQL database: SQLite has no LISTEN and NOTIFY."""
    database = Database(postgres_url)
    yield database
    database.close()


@contextmanager
def listener(database: Database) -> Iterator[psycopg.Connection[object]]:
    """Listen as a process does that has readers of the feed."""
    with closing(database.connect_unpooled()) as connection:
        connection.execute(f"LISTEN {FEED_CHANNEL}")
        yield connection


def test_an_event_notifies_other_processes(database: Database) -> None:
    """A process that listens is notified once, with the commit."""
    store(database, body("c1"))
    with listener(database) as connection:
        make_refetcher(database, ScriptedReader()).refetch("c1")

        assert len(list(connection.notifies(timeout=5, stop_after=1))) == 1


def test_a_read_without_events_notifies_nobody(database: Database) -> None:
    """A commit without events does not wake the readers of the feed."""
    refetcher = make_refetcher(database, ScriptedReader())
    store(database, body("c1"))
    refetcher.refetch("c1")
    store(database, body("c1"))
    with listener(database) as connection:
        refetcher.refetch("c1")

        assert list(connection.notifies(timeout=0.3)) == []
