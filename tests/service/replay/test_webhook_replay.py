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
    """Do the first step of a replay."""
    replay = started(database, **wish)
    with database.write() as session:
        return request_next_reads(database, session, row_of(database, replay.id))


def all_jobs(database: Database) -> list[ReadRequestRow]:
    with database.read() as session:
        return list(session.exec(select(ReadRequestRow).order_by(col(ReadRequestRow.connection_id))).all())


def settle(database: Database) -> None:
    """Do all pending reads."""
    refetcher = make_refetcher(database, ScriptedReader())
    for job in all_jobs(database):
        refetcher.refetch(job.connection_id)
    with database.write() as session:
        session.exec(update(ReadRequestRow).values(requested=ReadRequestRow.completed, due_at=None, woken_at=None))


def settled(database: Database, count: int) -> None:
    """Store webhooks of so many connections, and read them all."""
    store(database, *(body(f"c{number:03}", newStatus="ACTIVE") for number in range(count)))
    settle(database)


def pause(database: Database, seconds: float) -> None:
    with database.write() as session:
        circuit_breaker.open_circuit(database, session, reason="throttled", detail="Meld answered 429", seconds=60)
        session.exec(update(CircuitBreakerRow).values(paused_until=datetime.now(UTC) + timedelta(seconds=seconds)))


def test_a_step_requests_the_reads_of_one_second(database: Database) -> None:
    """The step requests the next connections, each once; then it waits for as long as the rate says."""
    settled(database, 5)
    store(database, body("c000", newStatus="ACTIVE"), body("c001", newStatus="ACTIVE"))
    settle(database)

    made = step(database, rate=3)

    assert (made.count, made.after, made.delay_seconds, made.is_last) == (3, "c002", 1.0, False)
    assert sorted(made.connections_to_notify) == ["c000", "c001", "c002"]
    owed = [(job.connection_id, job.trigger) for job in all_jobs(database) if job.requested > job.completed]
    assert owed == [("c000", "replay"), ("c001", "replay"), ("c002", "replay")]


def test_a_low_rate_is_one_read_and_a_long_delay(database: Database) -> None:
    """At less than one read a second the delay is longer than a second."""
    settled(database, 2)

    made = step(database, rate=0.5)

    assert (made.count, made.delay_seconds, made.is_last) == (1, 2.0, False)


@pytest.mark.parametrize("rate", [4, 5])
def test_the_step_with_the_last_connection_is_the_last(database: Database, rate: int) -> None:
    """The step with the last connection is the last one, unless it was cut by the rate."""
    settled(database, 4)

    made = step(database, rate=rate)

    assert (made.count, made.after, made.is_last) == (4, "c003", True)


def test_nothing_to_do_is_the_last_step(database: Database) -> None:
    """If nothing is selected or stored, the first step is the last."""
    assert step(database).is_last
    settled(database, 2)

    made = step(database, state="failed")

    assert (made.count, made.is_last, made.connections_to_notify) == (0, True, ())


def test_a_replay_waits_while_many_reads_are_due(database: Database) -> None:
    """Live webhooks come first: while many reads wait for a worker, the replay requests none."""
    settled(database, 1)
    store(database, *(body(f"live-{number}") for number in range(MAX_READY_READS)))

    made = step(database, connection="c000")

    assert (made.count, made.delay_seconds, made.is_last) == (0, RECHECK_SECONDS, False)
    assert "Is a worker running?" in (made.waiting_for or "")


def test_a_replay_requests_reads_up_to_the_limit(database: Database) -> None:
    """If few reads are due, it requests reads up to the limit; leased reads do not count."""
    settled(database, MAX_READY_READS + 20)
    store(database, *(body(f"live-{number}") for number in range(30)))
    with database.write() as session:
        leased = update(ReadRequestRow).where(
            col(ReadRequestRow.connection_id).in_([f"live-{number}" for number in range(20)])
        )
        session.exec(leased.values(lease_token="t", leased_until=datetime.now(UTC) + timedelta(seconds=30)))

    assert step(database, rate=1000).count == MAX_READY_READS - 10


def test_a_replay_respects_the_open_circuit(database: Database) -> None:
    """While the circuit is open it requests none."""
    settled(database, 3)
    pause(database, 60)

    made = step(database)

    assert (made.count, made.waiting_for) == (0, "Reads of Meld are paused: Meld answered 429.")


def test_a_replay_probes_a_half_open_circuit(database: Database) -> None:
    """When the circuit is half-open and no read is pending, its first read is the probe."""
    settled(database, 3)
    pause(database, -1)

    first = step(database)
    second = step(database)

    assert (first.count, second.count) == (1, 0)
    assert second.waiting_for is not None


def test_a_due_read_keeps_its_place_in_the_queue(database: Database) -> None:
    """A pending read that is due later becomes due now; one that is due keeps its place in the queue."""
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


def test_failed_reads_are_retried_with_all_attempts(database: Database) -> None:
    """A replay of failed webhooks resets the attempts of their reads, and these complete the webhooks."""
    store(database, body("c000", newStatus="ACTIVE"))
    with database.write() as session:
        session.exec(update(ReadRequestRow).values(failed_at=database.now(), attempts=12, due_at=None, woken_at=None))

    made = step(database, connection="c000")

    (job,) = all_jobs(database)
    assert made.connections_to_notify == ("c000",)
    assert (job.failed_at, job.attempts, job.due_at is not None) == (None, 0, True)
