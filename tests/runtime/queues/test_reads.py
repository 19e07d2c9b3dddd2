import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from runtime.database import Database
from runtime.queues import reads
from schemas.message_names import Trigger
from schemas.tables import ReadRequestRow
from tests.service.fakes import HandClock

THREADS = 6
ROUNDS = 15
IDS = [f"c{number}" for number in range(12)]


@pytest.fixture
def clock() -> HandClock:
    """The time of the timed database."""
    return HandClock()


@pytest.fixture
def timed(database_url: str, clock: HandClock) -> Iterator[Database]:
    """A database, of each kind, whose time stands still until the test moves it."""
    made = Database(database_url, clock=clock)
    yield made
    made.close()


def request_reads(
    database: Database, *ids: str, trigger: Trigger = "webhook", due_in: float = 0, depth: int = 0
) -> list[str]:
    with database.write() as session:
        return reads.request_reads(database, session, ids, trigger, due_in=due_in, depth=depth)


def get_request(database: Database, connection_id: str = "c1") -> ReadRequestRow:
    with database.read() as session:
        return session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == connection_id)).one()


def change(database: Database, **values: object) -> None:
    with database.write() as session:
        for row in session.exec(select(ReadRequestRow)):
            row.sqlmodel_update(values)


def run_concurrently(*works: Callable[[], None]) -> None:
    """Run each in a thread of its own, all beginning together, and raise what they raise."""
    start = threading.Barrier(len(works))

    def begin(work: Callable[[], None]) -> None:
        start.wait()
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        for running in [pool.submit(begin, work) for work in works]:
            running.result()


def test_a_requested_read_is_pending(timed: Database, clock: HandClock) -> None:
    """The first request for a connection inserts a row that is due now, and its worker has to be notified."""
    notified = request_reads(timed, "c1", trigger="operator")

    made = get_request(timed)
    assert notified == ["c1"]
    assert (made.requested, made.completed, made.trigger) == (1, 0, "operator")
    assert (made.requested_at, made.due_at, made.woken_at) == (clock.now,) * 3


def test_a_repeated_id_is_requested_once(timed: Database) -> None:
    """A connection that is named twice counts once; an empty list is no error."""
    assert sorted(request_reads(timed, "c2", "c1", "c2")) == ["c1", "c2"]
    assert request_reads(timed) == []
    assert get_request(timed, "c2").requested == 1


def test_a_row_keeps_the_replay_of_the_latest_request(timed: Database) -> None:
    """A row has the replay that requested the read last; a later request replaces it."""
    with timed.write() as session:
        reads.request_reads(timed, session, ["c1", "c2"], "replay", replay_id="r1")
        reads.request_reads(timed, session, ["c2"], "replay", replay_id="r2")
    stored = [(each.trigger, each.replay_id) for each in (get_request(timed, "c1"), get_request(timed, "c2"))]
    request_reads(timed, "c1", "c2", trigger="sibling")

    assert stored == [("replay", "r1"), ("replay", "r2")]
    assert [get_request(timed, id_).replay_id for id_ in ("c1", "c2")] == [None, None]


def test_a_second_request_counts_and_notifies_nobody(timed: Database, clock: HandClock) -> None:
    """A pending read is requested once more; the first message is still on its way, so no other is sent."""
    request_reads(timed, "c1")
    first = clock.now
    clock.move(reads.RENOTIFY_AFTER_SECONDS)

    notified = request_reads(timed, "c1", trigger="reconcile")

    again = get_request(timed)
    assert notified == []
    assert (again.requested, again.trigger, again.woken_at, again.due_at) == (2, "reconcile", first, first)


def test_a_lost_message_is_sent_again(timed: Database, clock: HandClock) -> None:
    """If a message has been on its way for too long, the next request notifies the worker again."""
    request_reads(timed, "c1")
    clock.move(reads.RENOTIFY_AFTER_SECONDS + 1)

    assert request_reads(timed, "c1") == ["c1"]
    assert get_request(timed).woken_at == clock.now


def test_a_request_during_a_lease_notifies_nobody(timed: Database, clock: HandClock) -> None:
    """While a worker reads, a request counts one more read, and leaves the lease unchanged."""
    request_reads(timed, "c1")
    change(timed, lease_token="mine", leased_until=clock.now + timedelta(seconds=30), woken_at=None, completed=0)
    clock.move(20)

    notified = request_reads(timed, "c1")

    leased = get_request(timed)
    assert notified == []
    assert (leased.requested, leased.lease_token, leased.woken_at) == (2, "mine", None)


def test_a_request_after_an_expired_lease_notifies(timed: Database, clock: HandClock) -> None:
    """A lease that expired, because its worker died, does not prevent a notification."""
    request_reads(timed, "c1")
    change(timed, lease_token="theirs", leased_until=clock.now + timedelta(seconds=30))
    clock.move(31)

    assert request_reads(timed, "c1") == ["c1"]


def test_a_read_for_later_notifies_nobody(timed: Database, clock: HandClock) -> None:
    """A read that is requested for later is due then, and the scheduler will notify the worker."""
    notified = request_reads(timed, "c1", trigger="recheck", due_in=30)

    later = get_request(timed)
    assert notified == []
    assert (later.due_at, later.woken_at) == (clock.now + timedelta(seconds=30), None)


def test_a_request_never_delays_a_read(timed: Database, clock: HandClock) -> None:
    """A read that is due sooner stays due sooner; one that is due later comes forward."""
    request_reads(timed, "c1", due_in=30)
    request_reads(timed, "c1", due_in=600)
    sooner = get_request(timed).due_at
    request_reads(timed, "c1")

    assert sooner == clock.now + timedelta(seconds=30)
    assert get_request(timed).due_at == clock.now


@pytest.mark.parametrize(
    ("trigger", "failed", "attempts", "rechecks"),
    [
        ("webhook", False, 0, 0),
        ("webhook", True, 0, 0),
        ("sibling", False, 4, 0),
        ("sibling", True, 0, 0),
        ("recheck", False, 4, 3),
        ("recheck", True, 0, 3),
        ("operator", False, 4, 0),
    ],
)
def test_counters_are_reset_by_trigger(
    timed: Database, clock: HandClock, trigger: Trigger, *, failed: bool, attempts: int, rechecks: int
) -> None:
    """A webhook, and any request of a dead read, reset the attempts; all triggers but a recheck reset the rechecks."""
    request_reads(timed, "c1")
    change(timed, attempts=4, rechecks=3, failed_at=clock.now if failed else None)

    request_reads(timed, "c1", trigger=trigger)

    reset = get_request(timed)
    assert (reset.attempts, reset.rechecks, reset.failed_at) == (attempts, rechecks, None)


@pytest.mark.parametrize(
    ("before", "completed", "depth", "expected"), [(2, 0, 1, 1), (1, 0, 2, 1), (1, 1, 2, 2), (0, 0, 3, 0)]
)
def test_a_pending_read_keeps_the_smaller_depth(
    timed: Database, before: int, completed: int, depth: int, expected: int
) -> None:
    """A pending read that is requested twice has the smaller depth; a completed request does not count."""
    request_reads(timed, "c1", depth=before)
    change(timed, completed=completed)

    request_reads(timed, "c1", depth=depth)

    assert get_request(timed).depth == expected


def test_failed_notifications_are_cleared(timed: Database, clock: HandClock) -> None:
    """If the broker was away, no message is on its way, and the next request notifies the worker."""
    request_reads(timed, "c1", "c2")
    clock.move(1)

    with timed.write() as session:
        reads.clear_notified(session, ["c2"])

    assert request_reads(timed, "c1", "c2") == ["c2"]


def test_release_all_frees_pending_reads(timed: Database, clock: HandClock) -> None:
    """A process that starts alone releases every pending read, and leaves the completed ones unchanged."""
    request_reads(timed, "c1")
    change(timed, lease_token="dead", leased_until=clock.now + timedelta(seconds=30))
    request_reads(timed, "c2")
    with timed.write() as session:
        done = session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == "c2")).one()
        done.sqlmodel_update({"completed": 1})
        reads.release_all(session)

    freed, done = get_request(timed, "c1"), get_request(timed, "c2")
    assert (freed.lease_token, freed.leased_until, freed.woken_at) == (None, None, None)
    assert done.woken_at == clock.now


@pytest.mark.parametrize(
    ("values", "is_ready"),
    [
        ({}, True),
        ({"completed": 1}, False),
        ({"due_at": None}, False),
        ({"due_at": timedelta(seconds=1)}, False),
        ({"lease_token": "t", "leased_until": timedelta(0)}, False),
        ({"lease_token": "t", "leased_until": timedelta(seconds=-1)}, True),
    ],
)
def test_a_ready_read_is_pending_due_and_free(
    timed: Database, clock: HandClock, values: dict[str, Any], *, is_ready: bool
) -> None:
    """A worker may lease a read that is requested, due now, and not leased by another worker."""
    request_reads(timed, "c1")
    change(
        timed, **{name: clock.now + value if isinstance(value, timedelta) else value for name, value in values.items()}
    )

    with timed.read() as session:
        ready = session.exec(select(ReadRequestRow.connection_id).where(reads.is_ready(timed))).all()
    assert (ready == ["c1"]) == is_ready


def test_lock_inserts_missing_rows(timed: Database) -> None:
    """An unknown connection has a row once it was locked, without a pending read."""
    with timed.write() as session:
        reads.lock_requests(timed, session, ["c2", "c1", "c2"])

    rows = [get_request(timed, each) for each in ("c1", "c2")]
    assert [(row.requested, row.completed, row.due_at) for row in rows] == [(0, 0, None)] * 2


def test_lock_leaves_existing_rows_unchanged(timed: Database, clock: HandClock) -> None:
    """An existing row stays as it is."""
    request_reads(timed, "c1", trigger="operator", depth=2)
    before = get_request(timed).model_dump()
    clock.move(60)

    with timed.write() as session:
        reads.lock_requests(timed, session, ["c1"])

    assert get_request(timed).model_dump() == before


def test_locks_serialize_transactions(database: Database) -> None:
    """Of two transactions that lock and then read and write, none overwrites the other."""
    request_reads(database, "c1")

    def count() -> None:
        for _ in range(ROUNDS):
            with database.write() as session:
                reads.lock_requests(database, session, ["c1", "c2"])
                row = session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == "c1")).one()
                row.sqlmodel_update({"attempts": row.attempts + 1})

    run_concurrently(*[count] * THREADS)

    assert get_request(database).attempts == THREADS * ROUNDS


def test_requests_in_any_order_never_deadlock(database: Database) -> None:
    """Threads that request overlapping sets, each in its own order, all succeed, and no request is lost."""
    requests = dict.fromkeys(IDS, 0)
    counting = threading.Lock()

    def request(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(ROUNDS):
            ids = chance.sample(IDS, chance.randint(1, len(IDS)))
            request_reads(database, *ids)
            with counting:
                for each in ids:
                    requests[each] += 1

    run_concurrently(*(lambda seed=seed: request(seed) for seed in range(THREADS)))

    with database.read() as session:
        rows = session.exec(select(ReadRequestRow.connection_id, ReadRequestRow.requested)).all()
    assert dict(rows) == {connection_id: count for connection_id, count in requests.items() if count}


def test_locks_and_requests_never_deadlock(database: Database) -> None:
    """Transactions that lock a set and request a part of it run beside those that only request, on old and new rows."""

    def apply(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(ROUNDS):
            ids = [
                *chance.sample(IDS, 4),
                f"new {number} {chance.randint(0, 3)}",
                f"new {number} {chance.randint(4, 7)}",
            ]
            with database.write() as session:
                reads.lock_requests(database, session, ids)
                reads.request_reads(database, session, chance.sample(ids, 3), "sibling")
                reads.clear_notified(session, chance.sample(ids, 2))

    def receive(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(ROUNDS):
            request_reads(database, *chance.sample(IDS, 6), f"new {number} {chance.randint(0, 7)}")

    works = [lambda work=work, seed=seed: work(seed) for seed in range(THREADS // 2) for work in (apply, receive)]
    run_concurrently(*works)

    with database.read() as session:
        assert session.exec(select(ReadRequestRow).where(col(ReadRequestRow.requested) > 0)).first() is not None


def test_cleared_notifications_and_requests_never_deadlock(database: Database) -> None:
    """Clearing notifications after a broker failure locks rows in the same order as requests do."""

    def clear() -> None:
        for _ in range(ROUNDS):
            with database.write() as session:
                reads.clear_notified(session, random.Random(1).sample(IDS, len(IDS)))

    def request() -> None:
        for _ in range(ROUNDS):
            request_reads(database, *IDS)

    run_concurrently(clear, request, clear, request)

    assert get_request(database, IDS[0]).requested == 2 * ROUNDS
