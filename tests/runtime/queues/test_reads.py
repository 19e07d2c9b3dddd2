import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

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
    """A database, of each kind, whose time stands still until it is moved."""
    made = Database(database_url, clock=clock)
    yield made
    made.close()


def raised(database: Database, *ids: str, trigger: Trigger = "webhook", due_in: float = 0, depth: int = 0) -> list[str]:
    with database.write() as session:
        return reads.raise_jobs(database, session, ids, trigger, due_in=due_in, depth=depth)


def job(database: Database, connection_id: str = "c1") -> ReadRequestRow:
    with database.read() as session:
        return session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == connection_id)).one()


def change(database: Database, **values: object) -> None:
    with database.write() as session:
        for row in session.exec(select(ReadRequestRow)):
            row.sqlmodel_update(values)


def at_once(*works: Callable[[], None]) -> None:
    """Run each in a thread of its own, all beginning together, and raise what they raise."""
    start = threading.Barrier(len(works))

    def begin(work: Callable[[], None]) -> None:
        start.wait()
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        for running in [pool.submit(begin, work) for work in works]:
            running.result()


def test_a_raised_job_is_owed(timed: Database, clock: HandClock) -> None:
    """A job that was never heard of is owed once, due now, and its worker is to be called."""
    called = raised(timed, "c1", trigger="operator")

    made = job(timed)
    assert called == ["c1"]
    assert (made.requested, made.completed, made.trigger) == (1, 0, "operator")
    assert (made.requested_at, made.due_at, made.woken_at) == (clock.now,) * 3


def test_each_job_is_raised_once(timed: Database) -> None:
    """A connection that is named twice is asked for once; nobody at all is no error."""
    assert sorted(raised(timed, "c2", "c1", "c2")) == ["c1", "c2"]
    assert raised(timed) == []
    assert job(timed, "c2").requested == 1


def test_a_replay_that_asks_is_remembered_until_another_does(timed: Database) -> None:
    """A job tells the replay that asked last; whoever asks after it takes its place."""
    with timed.write() as session:
        reads.raise_jobs(timed, session, ["c1", "c2"], "replay", replay_id="r1")
        reads.raise_jobs(timed, session, ["c2"], "replay", replay_id="r2")
    told = [(each.trigger, each.replay_id) for each in (job(timed, "c1"), job(timed, "c2"))]
    raised(timed, "c1", "c2", trigger="sibling")

    assert told == [("replay", "r1"), ("replay", "r2")]
    assert [job(timed, id_).replay_id for id_ in ("c1", "c2")] == [None, None]


def test_a_second_hint_counts_and_calls_nobody(timed: Database, clock: HandClock) -> None:
    """A job that is owed is asked for once more, while the first call is still on its way."""
    raised(timed, "c1")
    first = clock.now
    clock.move(reads.WOKEN_SECONDS)

    called = raised(timed, "c1", trigger="reconcile")

    again = job(timed)
    assert called == []
    assert (again.requested, again.trigger, again.woken_at, again.due_at) == (2, "reconcile", first, first)


def test_a_call_that_got_lost_is_made_again(timed: Database, clock: HandClock) -> None:
    """A job whose call has been on its way for long is called for again by the next hint."""
    raised(timed, "c1")
    clock.move(reads.WOKEN_SECONDS + 1)

    assert raised(timed, "c1") == ["c1"]
    assert job(timed).woken_at == clock.now


def test_a_hint_during_a_lease_calls_nobody(timed: Database, clock: HandClock) -> None:
    """While somebody reads, a hint asks for one more read, and leaves the claim as it is."""
    raised(timed, "c1")
    change(timed, lease_token="mine", leased_until=clock.now + timedelta(seconds=30), woken_at=None, completed=0)
    clock.move(20)

    called = raised(timed, "c1")

    held = job(timed)
    assert called == []
    assert (held.requested, held.lease_token, held.woken_at) == (2, "mine", None)


def test_a_hint_after_a_lease_calls(timed: Database, clock: HandClock) -> None:
    """A claim that ran out, since its owner died, keeps nobody from being called."""
    raised(timed, "c1")
    change(timed, lease_token="theirs", leased_until=clock.now + timedelta(seconds=30))
    clock.move(31)

    assert raised(timed, "c1") == ["c1"]


def test_a_read_for_later_calls_nobody(timed: Database, clock: HandClock) -> None:
    """A read that is asked for at a later time is due then, and the clock will call."""
    called = raised(timed, "c1", trigger="recheck", due_in=30)

    later = job(timed)
    assert called == []
    assert (later.due_at, later.woken_at) == (clock.now + timedelta(seconds=30), None)


def test_being_raised_never_puts_a_read_off(timed: Database, clock: HandClock) -> None:
    """A read that is due sooner stays due sooner; one that is due later comes forward."""
    raised(timed, "c1", due_in=30)
    raised(timed, "c1", due_in=600)
    sooner = job(timed).due_at
    raised(timed, "c1")

    assert sooner == clock.now + timedelta(seconds=30)
    assert job(timed).due_at == clock.now


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
def test_what_is_counted_anew(
    timed: Database, clock: HandClock, trigger: Trigger, *, failed: bool, attempts: int, rechecks: int
) -> None:
    """News and whoever failed for good get all attempts anew, and all but a recheck get all rechecks anew."""
    raised(timed, "c1")
    change(timed, attempts=4, rechecks=3, failed_at=clock.now if failed else None)

    raised(timed, "c1", trigger=trigger)

    anew = job(timed)
    assert (anew.attempts, anew.rechecks, anew.failed_at) == (attempts, rechecks, None)


@pytest.mark.parametrize(
    ("before", "completed", "depth", "expected"), [(2, 0, 1, 1), (1, 0, 2, 1), (1, 1, 2, 2), (0, 0, 3, 0)]
)
def test_an_owed_read_keeps_the_shorter_way(
    timed: Database, before: int, completed: int, depth: int, expected: int
) -> None:
    """A read that is owed for two wishes has come as far as the nearer one; one that is done counts no more."""
    raised(timed, "c1", depth=before)
    change(timed, completed=completed)

    raised(timed, "c1", depth=depth)

    assert job(timed).depth == expected


def test_calls_that_nobody_took_are_taken_back(timed: Database, clock: HandClock) -> None:
    """After a broker that was away, no call is on its way, and the next hint calls."""
    raised(timed, "c1", "c2")
    clock.move(1)

    with timed.write() as session:
        reads.take_back_calls(session, ["c2"])

    assert raised(timed, "c1", "c2") == ["c2"]


def test_a_process_that_is_alone_frees_what_died(timed: Database, clock: HandClock) -> None:
    """Whoever starts alone makes every owed job callable, and leaves those that are done."""
    raised(timed, "c1")
    change(timed, lease_token="dead", leased_until=clock.now + timedelta(seconds=30))
    raised(timed, "c2")
    with timed.write() as session:
        done = session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == "c2")).one()
        done.sqlmodel_update({"completed": 1})
        reads.forget_calls(session)

    freed, done = job(timed, "c1"), job(timed, "c2")
    assert (freed.lease_token, freed.leased_until, freed.woken_at) == (None, None, None)
    assert done.woken_at == clock.now


def test_lock_makes_what_is_missing(timed: Database) -> None:
    """A connection that was never heard of has a row once it was locked, and owes nothing."""
    with timed.write() as session:
        reads.lock(timed, session, ["c2", "c1", "c2"])

    rows = [job(timed, each) for each in ("c1", "c2")]
    assert [(row.requested, row.completed, row.due_at) for row in rows] == [(0, 0, None)] * 2


def test_lock_changes_nothing(timed: Database, clock: HandClock) -> None:
    """A row that is there stays as it is."""
    raised(timed, "c1", trigger="operator", depth=2)
    before = job(timed).model_dump()
    clock.move(60)

    with timed.write() as session:
        reads.lock(timed, session, ["c1"])

    assert job(timed).model_dump() == before


def test_locks_of_a_transaction_keep_others_out(database: Database) -> None:
    """Of two transactions that lock and then read and write, none overwrites the other."""
    raised(database, "c1")

    def count() -> None:
        for _ in range(ROUNDS):
            with database.write() as session:
                reads.lock(database, session, ["c1", "c2"])
                row = session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == "c1")).one()
                row.sqlmodel_update({"attempts": row.attempts + 1})

    at_once(*[count] * THREADS)

    assert job(database).attempts == THREADS * ROUNDS


def test_raising_in_any_order_never_deadlocks(database: Database) -> None:
    """Threads that raise overlapping sets, each in an order of its own, all succeed, and no wish is lost."""
    wishes = dict.fromkeys(IDS, 0)
    counting = threading.Lock()

    def wish(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(ROUNDS):
            ids = chance.sample(IDS, chance.randint(1, len(IDS)))
            raised(database, *ids)
            with counting:
                for each in ids:
                    wishes[each] += 1

    at_once(*(lambda seed=seed: wish(seed) for seed in range(THREADS)))

    with database.read() as session:
        rows = session.exec(select(ReadRequestRow.connection_id, ReadRequestRow.requested)).all()
    assert dict(rows) == {connection_id: count for connection_id, count in wishes.items() if count}


def test_locking_and_raising_never_deadlock(database: Database) -> None:
    """Transactions that lock a set and raise some of it mix with those that only raise, on rows old and new."""

    def apply(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(ROUNDS):
            ids = [
                *chance.sample(IDS, 4),
                f"new {number} {chance.randint(0, 3)}",
                f"new {number} {chance.randint(4, 7)}",
            ]
            with database.write() as session:
                reads.lock(database, session, ids)
                reads.raise_jobs(database, session, chance.sample(ids, 3), "sibling")
                reads.take_back_calls(session, chance.sample(ids, 2))

    def receive(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(ROUNDS):
            raised(database, *chance.sample(IDS, 6), f"new {number} {chance.randint(0, 7)}")

    works = [lambda work=work, seed=seed: work(seed) for seed in range(THREADS // 2) for work in (apply, receive)]
    at_once(*works)

    with database.read() as session:
        assert session.exec(select(ReadRequestRow).where(col(ReadRequestRow.requested) > 0)).first() is not None


def test_freed_calls_and_raises_never_deadlock(database: Database) -> None:
    """A broker that fails while webhooks come in locks in the same order as they do."""

    def free() -> None:
        for _ in range(ROUNDS):
            with database.write() as session:
                reads.take_back_calls(session, random.Random(1).sample(IDS, len(IDS)))

    def wish() -> None:
        for _ in range(ROUNDS):
            raised(database, *IDS)

    at_once(free, wish, free, wish)

    assert job(database, IDS[0]).requested == 2 * ROUNDS
