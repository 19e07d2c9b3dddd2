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
def clock() -> HandClock:
    """A clock for the database that is moved by hand."""
    return HandClock()


@pytest.fixture
def timed_database(database_url: str, clock: HandClock) -> Iterator[Database]:
    """A database with that clock."""
    database = Database(database_url, clock=clock)
    yield database
    database.close()


def notified(database: Database) -> list[str]:
    with database.write() as session:
        return mark_due_subscriptions(database, session)


def queue(clock: HandClock, subscription_id: str, connection_id: str = "c1", **seconds: float) -> DeliveryQueueRow:
    times = {name: clock.now + timedelta(seconds=value) for name, value in seconds.items()}
    return DeliveryQueueRow(subscription_id=subscription_id, connection_id=connection_id, **times)


def test_active_subscriptions_with_due_queues_are_notified(timed_database: Database, clock: HandClock) -> None:
    """One message for each delivery queue that is due and free, of subscriptions that are active."""
    for id_ in ("due", "later", "leased", "empty", "lease expired"):
        subscribe(timed_database, id_)
    subscribe(timed_database, "paused", paused_at=clock.now)
    subscribe(timed_database, "disabled", disabled_at=clock.now)
    store(
        timed_database,
        queue(clock, "due", due_at=-1),
        queue(clock, "due", "c2", due_at=0),
        queue(clock, "later", due_at=1),
        queue(clock, "leased", due_at=-1, leased_until=1),
        queue(clock, "lease expired", due_at=-1, leased_until=-1),
        queue(clock, "paused", due_at=-1),
        queue(clock, "disabled", due_at=-1),
        DeliveryQueueRow(subscription_id="empty", connection_id="c1"),
    )

    assert notified(timed_database) == ["due", "due", "lease expired"]


def test_a_subscription_is_notified_again_after_a_while(timed_database: Database, clock: HandClock) -> None:
    """Not before, unless a worker has handled the message; then the next due delivery causes a message at once."""
    subscribe(timed_database)
    emit(timed_database, *(f"c{number}" for number in range(MAX_MESSAGES_PER_SUBSCRIPTION + 2)))

    first, again = notified(timed_database), notified(timed_database)
    clock.move(RENOTIFY_AFTER_SECONDS + 1)
    later = notified(timed_database)
    make_dispatcher(timed_database, time_slice_seconds=30).deliver("s1")
    emit(timed_database, "c1")

    assert (first, again, later) == (["s1"] * MAX_MESSAGES_PER_SUBSCRIPTION, [], ["s1"] * MAX_MESSAGES_PER_SUBSCRIPTION)
    assert notified(timed_database) == ["s1"]
    assert subscription(timed_database).woken_at == clock.now
