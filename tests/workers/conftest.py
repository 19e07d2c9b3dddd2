from collections.abc import Callable

import pytest

from runtime.database import Database
from tests.support.scripted_meld import ScriptedReader, make_refetcher
from workers.refetch.refetch import Refetcher


@pytest.fixture
def reader() -> ScriptedReader:
    """A Meld that answers as scripted."""
    return ScriptedReader()


@pytest.fixture
def calls() -> list[str]:
    """The connections whose workers were notified."""
    return []


@pytest.fixture
def new_refetcher(database: Database, reader: ScriptedReader, calls: list[str]) -> Callable[[], Refetcher]:
    """Make a refetcher as a process would, on the test's database and Meld."""
    return lambda: make_refetcher(database, reader, calls)


@pytest.fixture
def refetcher(new_refetcher: Callable[[], Refetcher]) -> Refetcher:
    """A refetcher on the test's database and Meld."""
    return new_refetcher()
