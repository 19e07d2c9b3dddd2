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
    """A database that can tell."""
    database = Database(postgres_url)
    yield database
    database.close()


@contextmanager
def listener(database: Database) -> Iterator[psycopg.Connection[object]]:
    """Listen as a process with readers of the feed does."""
    with closing(database.connect_unpooled()) as connection:
        connection.execute(f"LISTEN {FEED_CHANNEL}")
        yield connection


def test_an_event_is_told_across_processes(database: Database) -> None:
    """Whoever listens hears of it once it is committed."""
    store(database, body("c1"))
    with listener(database) as connection:
        make_refetcher(database, ScriptedReader()).refetch("c1")

        assert len(list(connection.notifies(timeout=5, stop_after=1))) == 1


def test_a_read_without_news_tells_nobody(database: Database) -> None:
    """Readers of the feed are not woken for nothing."""
    refetcher = make_refetcher(database, ScriptedReader())
    store(database, body("c1"))
    refetcher.refetch("c1")
    store(database, body("c1"))
    with listener(database) as connection:
        refetcher.refetch("c1")

        assert list(connection.notifies(timeout=0.3)) == []
