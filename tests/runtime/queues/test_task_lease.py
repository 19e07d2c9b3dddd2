from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlmodel import select

from runtime.database import Database
from runtime.queues.task_lease import TaskLease
from schemas.tables import TaskLeaseRow

START = datetime(2026, 1, 2, tzinfo=UTC)


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def move(self, seconds: float) -> None:
        """Advance the time."""
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def time() -> Time:
    """The time of the database."""
    return Time()


@pytest.fixture
def timed(database_url: str, time: Time) -> Database:
    """A database with a time of its own, of each kind."""
    return Database(database_url, clock=time)


def task_lease(database: Database, holder: str, *, is_run_on_acquire: bool = False) -> TaskLease:
    return TaskLease(database=database, name="task", holder=holder, seconds=60, is_run_on_acquire=is_run_on_acquire)


def acquire(database: Database, which: TaskLease) -> bool:
    with database.write() as session:
        return which.acquire(session)


def release(database: Database, which: TaskLease, *, is_run_complete: bool = False) -> None:
    with database.write() as session:
        which.release(session, is_run_complete=is_run_complete)


def is_due(database: Database, which: TaskLease, every_seconds: float = 100) -> bool:
    with database.write() as session:
        return which.is_due(session, every_seconds)


def lease(database: Database) -> TaskLeaseRow:
    with database.read() as session:
        return session.exec(select(TaskLeaseRow)).one()


def test_one_process_holds_it_until_release_or_expiry(timed: Database, time: Time) -> None:
    """The holder may renew the lease; another process gets it after a release, or when it has expired."""
    mine, other = task_lease(timed, "me"), task_lease(timed, "you")

    taken = [acquire(timed, each) for each in (mine, other, mine)]
    release(timed, other)
    kept = acquire(timed, other)
    release(timed, mine)
    given = acquire(timed, other)
    time.move(59)
    early = acquire(timed, mine)
    time.move(2)
    late = acquire(timed, mine)

    assert taken == [True, False, True]
    assert (kept, given, early, late) == (False, True, False, True)
    timed.close()


@pytest.mark.parametrize("is_run_on_acquire", [True, False])
def test_it_records_when_the_task_ran(timed: Database, time: Time, *, is_run_on_acquire: bool) -> None:
    """On acquire, where that counts as a run; otherwise on the release of a complete run."""
    mine = task_lease(timed, "me", is_run_on_acquire=is_run_on_acquire)
    acquire(timed, mine)
    taken = lease(timed).ran_at
    time.move(5)
    release(timed, mine)
    left = lease(timed).ran_at
    release(timed, mine, is_run_complete=True)

    first = START if is_run_on_acquire else None
    assert (taken, left, lease(timed).ran_at) == (first, first, START + timedelta(seconds=5))
    timed.close()


def test_a_task_is_due_after_its_interval(timed: Database, time: Time) -> None:
    """An interval after the first call, then after the last run, and never while a process holds the lease."""
    mine, other = task_lease(timed, "me"), task_lease(timed, "you")
    due = []
    for seconds in (0, 99, 2):
        time.move(seconds)
        due.append(is_due(timed, mine))
    acquire(timed, mine)
    due.append(is_due(timed, other))
    release(timed, mine, is_run_complete=True)
    due.append(is_due(timed, other))
    time.move(101)
    due.append(is_due(timed, other))

    assert due == [False, False, True, False, False, True]
    timed.close()


def test_an_interrupted_run_is_due_again_at_once(timed: Database, time: Time) -> None:
    """A run that was stopped or killed is due as soon as the lease is free, also if the task never ran before."""
    mine, other = task_lease(timed, "me"), task_lease(timed, "you")
    acquire(timed, mine)
    release(timed, mine)
    ended = is_due(timed, other)
    acquire(timed, mine)
    leased = is_due(timed, other)
    time.move(61)

    assert (ended, leased, is_due(timed, other)) == (True, False, True)
    with timed.write() as session:
        session.exec(update(TaskLeaseRow).values(ran_at=START))
    assert not is_due(timed, other, every_seconds=62)
    timed.close()


def test_a_run_of_many_transactions_is_due_until_it_is_complete(timed: Database, time: Time) -> None:
    """Interrupted after `begin_run`, the task is due at once; after `complete_run`, an interval after the run began."""
    mine = task_lease(timed, "me")
    due = []
    for is_interrupted in (True, False):
        with timed.write() as session:
            mine.acquire(session)
            mine.begin_run(session)
        time.move(30)
        if not is_interrupted:
            with timed.write() as session:
                mine.complete_run(session, START)
        release(timed, mine)
        due.append(is_due(timed, mine))
    time.move(40)

    assert [*due, is_due(timed, mine)] == [True, False, True]
    timed.close()
