from collections.abc import Iterator

import pytest

from runtime.database import Database
from service.monitoring.delivery_backlog import FAILING_SECONDS, DeliveryBacklog, measure
from tests.service.fakes import HandClock
from tests.support.scripted_consumer import emit, subscribe


@pytest.fixture
def hand() -> HandClock:
    """The clock of the database, moved by hand."""
    return HandClock()


@pytest.fixture
def timed(database_url: str, hand: HandClock) -> Iterator[Database]:
    """A database whose time is moved by hand."""
    database = Database(database_url, clock=hand)
    yield database
    database.close()


def test_the_backlog_is_counted(timed: Database, hand: HandClock) -> None:
    """The pending deliveries, for how long the oldest has been due, and the subscriptions that failed for a day."""
    subscribe(timed)
    emit(timed, "c1", "c1", "c2")
    subscribe(timed, "failing", failing_since=hand.now)
    hand.move(FAILING_SECONDS + 1)

    with timed.read() as session:
        backlog = measure(timed, session)

    assert backlog == DeliveryBacklog(pending=3, oldest_seconds=FAILING_SECONDS + 1, dead=0, failing=1)
