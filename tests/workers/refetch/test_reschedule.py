from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import circuit_breaker, reads
from schemas.api_resources import get_webhook_state
from schemas.meld.read_outcome import Absent, ReadOutcome, Refused, Throttled, Unavailable, Unreadable
from schemas.tables import CircuitBreakerRow, ConnectionRow, EventRow, ObservationRow, ReadRequestRow, WebhookRow
from tests.support.scripted_meld import ScriptedReader, found
from tests.support.webhook_factory import body, store
from workers.refetch.commit import LeaseLostError
from workers.refetch.lease import ReadLease, acquire_lease
from workers.refetch.refetch import Refetcher
from workers.refetch.reschedule import reschedule
from workers.refetch.retry_policy import MAX_ATTEMPTS, MIN_OUTAGE_FAILURES, Failure, RetryDecision

DOWN = Unavailable("Meld answered 500")
FAILURES = [Absent(), DOWN, Throttled(7), Refused("Meld answered 401"), Unreadable("the response is not JSON")]


def lease_of(database: Database, connection_id: str = "c1", token: str = "t") -> ReadLease:
    with database.write() as session:
        lease = acquire_lease(database, session, connection_id, token=token, lease_seconds=30)
    assert lease is not None
    return lease


def fail_read(database: Database, lease: ReadLease, failure: Failure, jitter: float = 0) -> RetryDecision:
    with database.write() as session:
        return reschedule(database, session, lease, failure, jitter=jitter)


def job_of(database: Database, connection_id: str = "c1") -> ReadRequestRow:
    with database.read() as session:
        return session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == connection_id)).one()


def change(database: Database, **values: object) -> None:
    with database.write() as session:
        session.exec(update(ReadRequestRow).values(**values))


def seconds_until(moment: datetime | None) -> float | None:
    return None if moment is None else (moment - datetime.now(UTC)).total_seconds()


def webhook_states(database: Database) -> list[str]:
    with database.read() as session:
        return [get_webhook_state(row) for row in session.exec(select(WebhookRow).order_by(col(WebhookRow.id))).all()]


def circuit_of(session: Session) -> CircuitBreakerRow:
    return session.exec(select(CircuitBreakerRow)).one()


@pytest.fixture
def look(database: Database) -> Iterator[Callable[[], CircuitBreakerRow]]:
    """Read the row of the circuit breaker."""

    def look() -> CircuitBreakerRow:
        with database.read() as session:
            return circuit_of(session)

    return look


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_failure_releases_the_lease_and_changes_nothing_else(database: Database, failure: Failure) -> None:
    """The read is free, pending and due later; mirror, observations and feed are unchanged."""
    store(database, body("c1"))
    lease = lease_of(database)

    verdict = fail_read(database, lease, failure)

    job = job_of(database)
    assert (job.lease_token, job.leased_until, job.completed, job.requested) == (None, None, 0, 1)
    assert seconds_until(job.due_at) == pytest.approx(verdict.delay, abs=3)
    assert (job.error, job.attempts) == (verdict.detail, int(verdict.costs_attempt))
    assert webhook_states(database) == ["pending"]
    with database.read() as session:
        assert [session.exec(select(table)).all() for table in (ConnectionRow, ObservationRow, EventRow)] == [
            [],
            [],
            [],
        ]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_failure_without_the_newest_lease_writes_nothing(
    database: Database, failure: Failure, look: Callable[[], CircuitBreakerRow]
) -> None:
    """The fencing token refuses it; the circuit breaker is unchanged too."""
    store(database, body("c1"))
    lease = lease_of(database)
    change(database, lease_token="newer")
    before = job_of(database)

    with pytest.raises(LeaseLostError):
        fail_read(database, lease, failure)

    assert job_of(database).model_dump() == before.model_dump()
    assert (look().failures, look().paused_until) == (0, None)


def test_an_open_circuit_breaker_names_its_reason(database: Database, look: Callable[[], CircuitBreakerRow]) -> None:
    """An operator can see why it is open, since when and until when."""
    store(database, body("c1"))
    fail_read(database, lease_of(database), Throttled(100))

    row = look()
    assert (row.reason, row.detail) == ("throttled", "Meld answered 429")
    assert seconds_until(row.since) == pytest.approx(0, abs=3)
    assert seconds_until(row.paused_until) == pytest.approx(100, abs=3)


def test_reads_in_progress_do_not_keep_the_circuit_breaker_open(
    database: Database, look: Callable[[], CircuitBreakerRow]
) -> None:
    """A hundred reads that are refused together count as one refusal."""
    store(database, *(body(f"c{number}") for number in range(10)))
    leases = [lease_of(database, f"c{number}", f"t{number}") for number in range(10)]

    fail_read(database, leases[0], Throttled(5))
    for lease in leases[1:]:
        fail_read(database, lease, Throttled(300))

    assert look().failures == 1
    assert seconds_until(look().paused_until) == pytest.approx(5, abs=3)
    assert [job_of(database, lease.connection_id).attempts for lease in leases] == [0] * 10


def test_repeated_failures_of_one_connection_are_no_outage(
    database: Database, look: Callable[[], CircuitBreakerRow]
) -> None:
    """Failures of one connection in a row count once."""
    store(database, body("c1"))
    for _ in range(MIN_OUTAGE_FAILURES + 3):
        change(database, due_at=datetime.now(UTC) - timedelta(seconds=1))
        fail_read(database, lease_of(database), DOWN)

    assert (look().failures, look().paused_until) == (1, None)


def test_several_connections_that_fail_in_a_row_are_an_outage(
    database: Database, look: Callable[[], CircuitBreakerRow]
) -> None:
    """The fifth of five failures of different connections opens the circuit breaker."""
    store(database, *(body(f"c{number}") for number in range(MIN_OUTAGE_FAILURES)))
    verdicts = [fail_read(database, lease_of(database, f"c{number}"), DOWN) for number in range(MIN_OUTAGE_FAILURES)]

    assert [verdict.pause is not None for verdict in verdicts] == [False] * (MIN_OUTAGE_FAILURES - 1) + [True]
    assert look().reason == "unavailable"


def test_an_answer_in_between_is_no_outage(
    database: Database, refetcher: Refetcher, look: Callable[[], CircuitBreakerRow]
) -> None:
    """A success resets the count of failures."""
    store(database, body("good"), *(body(f"c{number}") for number in range(MIN_OUTAGE_FAILURES)))
    for number in range(MIN_OUTAGE_FAILURES - 1):
        fail_read(database, lease_of(database, f"c{number}"), DOWN)
    refetcher.refetch("good")
    fail_read(database, lease_of(database, f"c{MIN_OUTAGE_FAILURES - 1}"), DOWN)

    assert (look().failures, look().paused_until) == (1, None)


@pytest.mark.parametrize("failure", [Absent(), Unreadable("the response is not JSON")], ids=repr)
def test_the_last_attempt_fails_the_webhooks_that_it_covers(database: Database, failure: Failure) -> None:
    """They are marked as failed with the reason; later ones are not."""
    store(database, body("c1"), body("c1"), body("c2"))
    change(database, attempts=MAX_ATTEMPTS - 1)
    lease = lease_of(database)

    verdict = fail_read(database, lease, failure)

    with database.read() as session:
        errors = session.exec(select(WebhookRow.error).order_by(col(WebhookRow.id))).all()
    assert verdict.is_dead
    assert job_of(database).failed_at is not None
    assert webhook_states(database) == ["failed", "failed", "pending"]
    assert list(errors) == [verdict.detail, verdict.detail, None]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
@pytest.mark.parametrize("attempts", [0, MAX_ATTEMPTS - 1], ids=["first attempt", "last attempt"])
def test_a_webhook_during_a_failed_read_leads_to_another_read(
    database: Database,
    new_refetcher: Callable[[], Refetcher],
    reader: ScriptedReader,
    failure: Failure,
    attempts: int,
) -> None:
    """Its read has to begin after it was stored; the failure of an earlier read does not count."""

    def fails() -> ReadOutcome:
        store(database, body("c1", event_id="later"))
        return failure

    store(database, body("c1", event_id="earlier"))
    change(database, attempts=attempts)
    reader.answers["c1"] = fails
    new_refetcher().refetch("c1")
    reader.answers["c1"] = found("c1")

    job = job_of(database)
    assert job.due_at is not None
    assert (seconds_until(job.due_at) or 0) < 31
    assert (job.failed_at, job.attempts) == (None, 0)
    change(database, due_at=datetime.now(UTC) - timedelta(seconds=1))
    with database.write() as session:
        circuit_breaker.close_circuit(session)
    new_refetcher().refetch("c1")
    assert webhook_states(database) == ["processed", "processed"]


def test_a_request_during_the_last_attempt_leads_to_another_read(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """The same holds for an operator's request: the API has promised a read."""

    def fails() -> ReadOutcome:
        with database.write() as session:
            reads.request_reads(database, session, ["c1"], "operator")
        return Absent()

    store(database, body("c1"))
    change(database, attempts=MAX_ATTEMPTS - 1)
    reader.answers["c1"] = fails
    refetcher.refetch("c1")
    reader.answers["c1"] = found("c1")
    assert job_of(database).due_at is not None
    change(database, due_at=datetime.now(UTC) - timedelta(seconds=1))
    refetcher.refetch("c1")

    assert webhook_states(database) == ["processed"]


def test_the_backoff_is_short_while_the_newest_webhook_is_fresh(database: Database) -> None:
    """At most thirty seconds within the first hour, and a quarter of an hour later."""
    store(database, body("c1"))
    change(database, attempts=MAX_ATTEMPTS - 2)
    fresh = fail_read(database, lease_of(database), DOWN, jitter=1).delay
    with database.write() as session:
        session.exec(update(WebhookRow).values(received_at=database.now(-3700)))
    change(database, attempts=MAX_ATTEMPTS - 2, due_at=datetime.now(UTC) - timedelta(seconds=1))
    stale = fail_read(database, lease_of(database), DOWN, jitter=1).delay

    assert (fresh, stale) == (30, 900)
