from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from runtime.database import Database
from runtime.queues import circuit_breaker
from schemas.tables import CircuitBreakerRow, ReadRequestRow
from service.replay.step import ReplayStep
from service.replay.webhook_replay import MAX_READY_READS, RECHECK_SECONDS, request_next_reads
from tests.service.replay.replay_helpers import row_of, started
from tests.support.scripted_meld import ScriptedReader, make_refetcher
from tests.support.webhook_factory import body, store


def step(database: Database, **wish: Any) -> ReplayStep:
    """Make the first step of a replay."""
    replay = started(database, **wish)
    with database.write() as session:
        return request_next_reads(database, session, row_of(database, replay.id))


def all_jobs(database: Database) -> list[ReadRequestRow]:
    with database.read() as session:
        return list(session.exec(select(ReadRequestRow).order_by(col(ReadRequestRow.connection_id))).all())


def settle(database: Database) -> None:
    """Have everything read that is owed."""
    refetcher = make_refetcher(database, ScriptedReader())
    for job in all_jobs(database):
        refetcher.refetch(job.connection_id)
    with database.write() as session:
        session.exec(update(ReadRequestRow).values(requested=ReadRequestRow.completed, due_at=None, woken_at=None))


def settled(database: Database, count: int) -> None:
    """Store webhooks of so many connections, and have them all read."""
    store(database, *(body(f"c{number:03}", newStatus="ACTIVE") for number in range(count)))
    settle(database)


def pause(database: Database, seconds: float) -> None:
    with database.write() as session:
        circuit_breaker.open_circuit(database, session, reason="throttled", detail="Meld answered 429", seconds=60)
        session.exec(update(CircuitBreakerRow).values(paused_until=datetime.now(UTC) + timedelta(seconds=seconds)))


def test_as_many_are_asked_for_as_belong_in_a_second(database: Database) -> None:
    """The next connections, each once, by the replay's name; then it rests for as long as their reads may take."""
    settled(database, 5)
    store(database, body("c000", newStatus="ACTIVE"), body("c001", newStatus="ACTIVE"))
    settle(database)

    made = step(database, rate=3)

    assert (made.count, made.after, made.delay_seconds, made.is_last) == (3, "c002", 1.0, False)
    assert sorted(made.connections_to_notify) == ["c000", "c001", "c002"]
    owed = [(job.connection_id, job.trigger) for job in all_jobs(database) if job.requested > job.completed]
    assert owed == [("c000", "replay"), ("c001", "replay"), ("c002", "replay")]


def test_a_low_rate_is_one_read_in_a_while(database: Database) -> None:
    """At less than one read a second it rests for longer than a second."""
    settled(database, 2)

    made = step(database, rate=0.5)

    assert (made.count, made.delay_seconds, made.is_last) == (1, 2.0, False)


@pytest.mark.parametrize("rate", [4, 5])
def test_the_last_step_knows_that_it_is(database: Database, rate: int) -> None:
    """It ends with the last connection, not with an empty step, unless it was cut off before."""
    settled(database, 4)

    made = step(database, rate=rate)

    assert (made.count, made.after, made.is_last) == (4, "c003", True)


def test_nothing_to_do_is_the_last_step(database: Database) -> None:
    """Where nothing is selected the first step is the last; so it is where nothing is stored."""
    assert step(database).is_last
    settled(database, 2)

    made = step(database, state="failed")

    assert (made.count, made.is_last, made.connections_to_notify) == (0, True, ())


def test_it_waits_while_much_is_due(database: Database) -> None:
    """It does not put itself before live webhooks: while many reads wait for a worker it asks for none."""
    settled(database, 1)
    store(database, *(body(f"live-{number}") for number in range(MAX_READY_READS)))

    made = step(database, connection="c000")

    assert (made.count, made.delay_seconds, made.is_last) == (0, RECHECK_SECONDS, False)
    assert "Is a worker running?" in (made.waiting_for or "")


def test_it_fills_up_what_is_due(database: Database) -> None:
    """Where little is due it asks for as many as make it much; what is being read does not count."""
    settled(database, MAX_READY_READS + 20)
    store(database, *(body(f"live-{number}") for number in range(30)))
    with database.write() as session:
        leased = update(ReadRequestRow).where(
            col(ReadRequestRow.connection_id).in_([f"live-{number}" for number in range(20)])
        )
        session.exec(leased.values(lease_token="t", leased_until=datetime.now(UTC) + timedelta(seconds=30)))

    assert step(database, rate=1000).count == MAX_READY_READS - 10


def test_it_heeds_the_pause(database: Database) -> None:
    """While reads are paused it asks for none."""
    settled(database, 3)
    pause(database, 60)

    made = step(database)

    assert (made.count, made.waiting_for) == (0, "Reads of Meld are paused: Meld answered 429.")


def test_it_ends_a_pause_that_nobody_else_would(database: Database) -> None:
    """When a pause has run out and nobody is owed a read, its first finds out if it is over."""
    settled(database, 3)
    pause(database, -1)

    first = step(database)
    second = step(database)

    assert (first.count, second.count) == (1, 0)
    assert second.waiting_for is not None


def test_whoever_waited_longer_is_read_first(database: Database) -> None:
    """A read that is owed and due later is due now; one that is due already stays where it is in the queue."""
    store(database, body("c000"), body("c001"))
    earlier = datetime.now(UTC) - timedelta(minutes=5)
    later = datetime.now(UTC) + timedelta(minutes=5)
    with database.write() as session:
        for id_, due_at in (("c000", earlier), ("c001", later)):
            session.exec(update(ReadRequestRow).where(col(ReadRequestRow.connection_id) == id_).values(due_at=due_at))

    step(database)

    first, second = all_jobs(database)
    assert first.due_at == earlier
    assert second.due_at is not None
    assert second.due_at < later


def test_what_was_given_up_is_tried_anew(database: Database) -> None:
    """A replay of failed webhooks gives their jobs all attempts again, and their reads settle them."""
    store(database, body("c000", newStatus="ACTIVE"))
    with database.write() as session:
        session.exec(update(ReadRequestRow).values(failed_at=database.now(), attempts=12, due_at=None, woken_at=None))

    made = step(database, connection="c000")

    (job,) = all_jobs(database)
    assert made.connections_to_notify == ("c000",)
    assert (job.failed_at, job.attempts, job.due_at is not None) == (None, 0, True)
