import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from runtime.database import Database
from runtime.queues import deliveries
from schemas.tables import DeliveryQueueRow
from tests.service.fakes import HandClock
from tests.support.row_factory import store
from tests.support.scripted_consumer import delivery_queues, subscribe, subscription


def test_marked_queues_are_due(database: Database) -> None:
    """A missing queue is inserted; an empty one becomes due; one that waits for a retry keeps waiting."""
    subscribe(database)
    with database.write() as session:
        deliveries.mark_queues_due(database, session, [("s1", "b"), ("s1", "a")])
    first = delivery_queues(database)
    with database.write() as session:
        deliveries.mark_queues_due(database, session, [("s1", "a")])

    assert [(queue.connection_id, queue.due_at is not None) for queue in first] == [("a", True), ("b", True)]
    assert delivery_queues(database)[0].due_at == first[0].due_at


def test_concurrent_marks_never_deadlock(database: Database) -> None:
    """Transactions that mark the same queues in any order do not deadlock."""
    pairs = [(f"s{number % 3}", f"c{number}") for number in range(12)]

    def work(turn: int) -> None:
        for _ in range(5):
            with database.write() as session:
                deliveries.mark_queues_due(database, session, pairs[turn:] + pairs[:turn])

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(delivery_queues(database)) == 12


def test_release_all_frees_queues_and_subscriptions(database: Database) -> None:
    """The leases and messages of a previous process are lost with it."""
    now = datetime.now(UTC)
    subscribe(database, woken_at=now)
    store(
        database,
        DeliveryQueueRow(subscription_id="s1", connection_id="c1", due_at=now, lease_token="t", leased_until=now),
    )
    with database.write() as session:
        deliveries.release_all(session)
    (queue,) = delivery_queues(database)

    assert (queue.lease_token, queue.leased_until, queue.due_at) == (None, None, now)
    assert subscription(database).woken_at is None


def test_a_lease_is_released_by_its_token(database: Database) -> None:
    """Other leases stay."""
    now = datetime.now(UTC)
    leased = {"subscription_id": "s1", "due_at": now, "leased_until": now}
    store(database, *(DeliveryQueueRow(connection_id=name, lease_token=name, **leased) for name in ("a", "b", "c")))
    with database.write() as session:
        deliveries.release(session, "b")
        deliveries.release(session, "unknown")

    assert [queue.lease_token for queue in delivery_queues(database)] == ["a", None, "c"]


@pytest.mark.parametrize(
    ("due_in", "leased_for", "is_ready"),
    [(0, None, True), (None, None, False), (1, None, False), (0, 0, False), (0, -1, True)],
)
def test_a_ready_queue_is_due_and_free(
    database_url: str, due_in: float | None, leased_for: float | None, *, is_ready: bool
) -> None:
    """A worker may lease a queue with a due delivery that no other worker has leased."""
    clock = HandClock()

    def later(seconds: float | None) -> datetime | None:
        return clock.now + timedelta(seconds=seconds) if seconds is not None else None

    with closing(Database(database_url, clock=clock)) as timed:
        row = DeliveryQueueRow(subscription_id="s1", connection_id="c1", due_at=later(due_in))
        store(timed, row.sqlmodel_update({"leased_until": later(leased_for)}))
        with timed.read() as session:
            ready = session.exec(select(DeliveryQueueRow.connection_id).where(deliveries.is_ready(timed))).all()

    assert (ready == ["c1"]) == is_ready
