import itertools
from collections.abc import Callable

import pytest

from runtime.clock import utcnow
from runtime.database import Database
from runtime.metrics import Metrics
from tests.workers.meldlike import ScriptedReader
from workers.refresh import Refresh


@pytest.fixture
def reader() -> ScriptedReader:
    """A Meld that answers as scripted."""
    return ScriptedReader()


@pytest.fixture
def calls() -> list[str]:
    """The connections whose workers were called."""
    return []


@pytest.fixture
def make_refresh(database: Database, reader: ScriptedReader, calls: list[str]) -> Callable[[], Refresh]:
    """Make a refresher as a process would, on the test's database and Meld."""
    numbers = itertools.count(1)

    def make() -> Refresh:
        return Refresh(
            database=database,
            reader=reader,
            call=calls.extend,
            clock=utcnow,
            lease_seconds=30,
            token=lambda: f"token {next(numbers)}",
            jitter=lambda: 0.0,
            metrics=Metrics(),
            notify=lambda: None,
        )

    return make


@pytest.fixture
def refresh(make_refresh: Callable[[], Refresh]) -> Refresh:
    """A refresher on the test's database and Meld."""
    return make_refresh()
