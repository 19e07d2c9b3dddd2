from collections.abc import Iterator
from datetime import timedelta

import pytest

from runtime.database import Database
from runtime.queues.reads import WOKEN_SECONDS
from schemas.tables import DeliveryQueueRow
from service.scheduler.due_deliveries import FAILING_SECONDS, MOST_CALLS, DeliveryBacklog, due_pushes, measure
from tests.service.fakes import HandClock
from tests.support.row_factory import store
from tests.support.scripted_consumer import deliver_on, emit, subscribe, subscription


@pytest.fixture
def hand() -> HandClock:
    """The time that the database goes by."""
    return HandClock()


@pytest.fixture
def timed(database_url: str, hand: HandClock) -> Iterator[Database]:
    """A database that goes by a time set by hand."""
    database = Database(database_url, clock=hand)
    yield database
    database.close()


def due(database: Database) -> list[str]:
    with database.write() as session:
        return due_pushes(database, session)


def measured(database: Database) -> DeliveryBacklog:
    with database.read() as session:
        return measure(database, session)


def lane(hand: HandClock, subscription_id: str, connection_id: str = "c1", **seconds: float) -> DeliveryQueueRow:
    times = {name: hand.now + timedelta(seconds=value) for name, value in seconds.items()}
    return DeliveryQueueRow(subscription_id=subscription_id, connection_id=connection_id, **times)


def test_who_is_called(timed: Database, hand: HandClock) -> None:
    """Workers are called for subscriptions that are active and have a lane that is due and that nobody is at."""
    for id_ in ("due", "later", "at work", "nothing", "lost"):
        subscribe(timed, id_)
    subscribe(timed, "paused", paused_at=hand.now)
    subscribe(timed, "disabled", disabled_at=hand.now)
    store(
        timed,
        lane(hand, "due", due_at=-1),
        lane(hand, "due", "c2", due_at=0),
        lane(hand, "later", due_at=1),
        lane(hand, "at work", due_at=-1, leased_until=1),
        lane(hand, "lost", due_at=-1, leased_until=-1),
        lane(hand, "paused", due_at=-1),
        lane(hand, "disabled", due_at=-1),
        DeliveryQueueRow(subscription_id="nothing", connection_id="c1"),
    )

    assert due(timed) == ["due", "due", "lost"]


def test_a_call_is_given_time_to_arrive(timed: Database, hand: HandClock) -> None:
    """Nobody is called again for a while, unless a worker has come; then at once, as often as is of use."""
    subscribe(timed)
    emit(timed, *(f"c{number}" for number in range(MOST_CALLS + 2)))

    first, again = due(timed), due(timed)
    hand.move(WOKEN_SECONDS + 1)
    later = due(timed)
    deliver_on(timed, round_seconds=30).deliver("s1")
    emit(timed, "c1")

    assert (first, again, later) == (["s1"] * MOST_CALLS, [], ["s1"] * MOST_CALLS)
    assert due(timed) == ["s1"]
    assert subscription(timed).woken_at == hand.now


def test_how_it_stands(timed: Database, hand: HandClock) -> None:
    """What is pending, since when the oldest of it is due, and who has failed for a day."""
    subscribe(timed)
    emit(timed, "c1", "c1", "c2")
    subscribe(timed, "failing", failing_since=hand.now)
    hand.move(FAILING_SECONDS + 1)

    assert measured(timed) == DeliveryBacklog(pending=3, oldest_seconds=FAILING_SECONDS + 1, dead=0, failing=1)
