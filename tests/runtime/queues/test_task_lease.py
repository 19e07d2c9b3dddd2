from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlmodel import select

from runtime.database import Database
from runtime.queues.task_lease import TaskLease
from schemas.tables import TaskLeaseRow

START = datetime(2026, 1, 2, tzinfo=UTC)


class Time:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """Tell the time."""
        return self.now

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def time() -> Time:
    """The time of the database."""
    return Time()


@pytest.fixture
def timed(database_url: str, time: Time) -> Database:
    """A database with a time of its own, of each kind."""
    return Database(database_url, clock=time)


def turn(database: Database, holder: str, *, is_done_at_once: bool = False) -> TaskLease:
    return TaskLease(database=database, name="thing", holder=holder, seconds=60, is_done_at_once=is_done_at_once)


def take(database: Database, which: TaskLease) -> bool:
    with database.write() as session:
        return which.take(session)


def leave(database: Database, which: TaskLease, *, is_done: bool = False) -> None:
    with database.write() as session:
        which.leave(session, is_done=is_done)


def is_due(database: Database, which: TaskLease, every_seconds: float = 100) -> bool:
    with database.write() as session:
        return which.is_due(session, every_seconds)


def lease(database: Database) -> TaskLeaseRow:
    with database.read() as session:
        return session.exec(select(TaskLeaseRow)).one()


def test_one_holds_it_until_it_leaves_or_dies(timed: Database, time: Time) -> None:
    """Whoever has it may have it longer; another gets it when it was given back, or not heard of for too long."""
    mine, other = turn(timed, "me"), turn(timed, "you")

    taken = [take(timed, each) for each in (mine, other, mine)]
    leave(timed, other)
    kept = take(timed, other)
    leave(timed, mine)
    given = take(timed, other)
    time.move(59)
    early = take(timed, mine)
    time.move(2)
    late = take(timed, mine)

    assert taken == [True, False, True]
    assert (kept, given, early, late) == (False, True, False, True)
    timed.close()


@pytest.mark.parametrize("is_done_at_once", [True, False])
def test_it_remembers_when_the_thing_was_done(timed: Database, time: Time, *, is_done_at_once: bool) -> None:
    """By being taken, where that is all there is to do; otherwise when it is left, and done."""
    mine = turn(timed, "me", is_done_at_once=is_done_at_once)
    take(timed, mine)
    taken = lease(timed).ran_at
    time.move(5)
    leave(timed, mine)
    left = lease(timed).ran_at
    leave(timed, mine, is_done=True)

    first = START if is_done_at_once else None
    assert (taken, left, lease(timed).ran_at) == (first, first, START + timedelta(seconds=5))
    timed.close()


def test_it_is_due_after_its_time(timed: Database, time: Time) -> None:
    """That long after it was first asked, then after it was last done, and never while somebody is at it."""
    mine, other = turn(timed, "me"), turn(timed, "you")
    said = []
    for seconds in (0, 99, 2):
        time.move(seconds)
        said.append(is_due(timed, mine))
    take(timed, mine)
    said.append(is_due(timed, other))
    leave(timed, mine, is_done=True)
    said.append(is_due(timed, other))
    time.move(101)
    said.append(is_due(timed, other))

    assert said == [False, False, True, False, False, True]
    timed.close()


def test_what_was_interrupted_is_due_again_at_once(timed: Database, time: Time) -> None:
    """Told to end, or killed: as soon as the lease is free, also where it was never done before."""
    mine, other = turn(timed, "me"), turn(timed, "you")
    take(timed, mine)
    leave(timed, mine)
    ended = is_due(timed, other)
    take(timed, mine)
    held = is_due(timed, other)
    time.move(61)

    assert (ended, held, is_due(timed, other)) == (True, False, True)
    with timed.write() as session:
        session.exec(update(TaskLeaseRow).values(ran_at=START))
    assert not is_due(timed, other, every_seconds=62)
    timed.close()
