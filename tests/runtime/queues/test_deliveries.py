import threading
from datetime import UTC, datetime

from runtime.database import Database
from runtime.queues import deliveries
from schemas.tables import DeliveryQueueRow
from tests.support.row_factory import store
from tests.support.scripted_consumer import lanes as rows_of
from tests.support.scripted_consumer import subscribe, subscription


def test_what_is_raised_is_due(database: Database) -> None:
    """A lane that is not there is made; one that was emptied is due again; one that waits goes on waiting."""
    subscribe(database)
    with database.write() as session:
        deliveries.raise_lanes(database, session, [("s1", "b"), ("s1", "a")])
    first = rows_of(database)
    with database.write() as session:
        deliveries.raise_lanes(database, session, [("s1", "a")])

    assert [(lane.connection_id, lane.due_at is not None) for lane in first] == [("a", True), ("b", True)]
    assert rows_of(database)[0].due_at == first[0].due_at


def test_many_at_once_wait_for_nobody_for_ever(database: Database) -> None:
    """Transactions that raise the same lanes in whatever order do not block each other for good."""
    pairs = [(f"s{number % 3}", f"c{number}") for number in range(12)]

    def work(turn: int) -> None:
        for _ in range(5):
            with database.write() as session:
                deliveries.raise_lanes(database, session, pairs[turn:] + pairs[:turn])

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(rows_of(database)) == 12


def test_who_starts_alone_frees_everything(database: Database) -> None:
    """What another process had leased or called for died with it."""
    now = datetime.now(UTC)
    subscribe(database, woken_at=now)
    store(
        database,
        DeliveryQueueRow(subscription_id="s1", connection_id="c1", due_at=now, lease_token="t", leased_until=now),
    )
    with database.write() as session:
        deliveries.forget_calls(session)
    (lane,) = rows_of(database)

    assert (lane.lease_token, lane.leased_until, lane.due_at) == (None, None, now)
    assert subscription(database).woken_at is None


def test_a_lease_is_given_back_by_its_token(database: Database) -> None:
    """Those of others stay."""
    now = datetime.now(UTC)
    held = {"subscription_id": "s1", "due_at": now, "leased_until": now}
    store(database, *(DeliveryQueueRow(connection_id=name, lease_token=name, **held) for name in ("a", "b", "c")))
    with database.write() as session:
        deliveries.free(session, "b")
        deliveries.free(session, "unknown")

    assert [lane.lease_token for lane in rows_of(database)] == ["a", None, "c"]
