from collections.abc import Callable

import pytest

from runtime.database import Database
from tests.support.scripted_meld import ScriptedReader, refresh_on
from workers.refetch.refetch import Refetch


@pytest.fixture
def reader() -> ScriptedReader:
    """A Meld that answers as scripted."""
    return ScriptedReader()


@pytest.fixture
def calls() -> list[str]:
    """The connections whose workers were called."""
    return []


@pytest.fixture
def make_refresh(database: Database, reader: ScriptedReader, calls: list[str]) -> Callable[[], Refetch]:
    """Make a refresher as a process would, on the test's database and Meld."""
    return lambda: refresh_on(database, reader, calls)


@pytest.fixture
def refresh(make_refresh: Callable[[], Refetch]) -> Refetch:
    """A refresher on the test's database and Meld."""
    return make_refresh()
