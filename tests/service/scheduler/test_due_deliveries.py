from collections.abc import Iterator
from datetime import timedelta

import pytest

from runtime.database import Database
from runtime.queues.reads import RENOTIFY_AFTER_SECONDS
from schemas.tables import DeliveryQueueRow
from service.scheduler.due_deliveries import MAX_MESSAGES_PER_SUBSCRIPTION, mark_due_subscriptions
from tests.service.fakes import HandClock
from tests.support.row_factory import store
from tests.support.scripted_consumer import emit, make_dispatcher, subscribe, subscription


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


def due(database: Database) -> list[str]:
    with database.write() as session:
        return mark_due_subscriptions(database, session)


def queue(hand: HandClock, subscription_id: str, connection_id: str = "c1", **seconds: float) -> DeliveryQueueRow:
    times = {name: hand.now + timedelta(seconds=value) for name, value in seconds.items()}
    return DeliveryQueueRow(subscription_id=subscription_id, connection_id=connection_id, **times)


def test_active_subscriptions_with_due_queues_are_notified(timed: Database, hand: HandClock) -> None:
    """One message for each delivery queue that is due and free, of subscriptions that are active."""
    for id_ in ("due", "later", "at work", "nothing", "lost"):
        subscribe(timed, id_)
    subscribe(timed, "paused", paused_at=hand.now)
    subscribe(timed, "disabled", disabled_at=hand.now)
    store(
        timed,
        queue(hand, "due", due_at=-1),
        queue(hand, "due", "c2", due_at=0),
        queue(hand, "later", due_at=1),
        queue(hand, "at work", due_at=-1, leased_until=1),
        queue(hand, "lost", due_at=-1, leased_until=-1),
        queue(hand, "paused", due_at=-1),
        queue(hand, "disabled", due_at=-1),
        DeliveryQueueRow(subscription_id="nothing", connection_id="c1"),
    )

    assert due(timed) == ["due", "due", "lost"]


def test_a_message_is_given_time_to_arrive(timed: Database, hand: HandClock) -> None:
    """A subscription is not notified again for a while, unless a worker has handled the message; then it is at once."""
    subscribe(timed)
    emit(timed, *(f"c{number}" for number in range(MAX_MESSAGES_PER_SUBSCRIPTION + 2)))

    first, again = due(timed), due(timed)
    hand.move(RENOTIFY_AFTER_SECONDS + 1)
    later = due(timed)
    make_dispatcher(timed, time_slice_seconds=30).deliver("s1")
    emit(timed, "c1")

    assert (first, again, later) == (["s1"] * MAX_MESSAGES_PER_SUBSCRIPTION, [], ["s1"] * MAX_MESSAGES_PER_SUBSCRIPTION)
    assert due(timed) == ["s1"]
    assert subscription(timed).woken_at == hand.now
