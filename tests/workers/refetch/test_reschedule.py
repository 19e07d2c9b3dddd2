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


def put_off(database: Database, lease: ReadLease, failure: Failure, jitter: float = 0) -> RetryDecision:
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


def gate_of(session: Session) -> CircuitBreakerRow:
    return session.exec(select(CircuitBreakerRow)).one()


@pytest.fixture
def look(database: Database) -> Iterator[Callable[[], CircuitBreakerRow]]:
    """Look at the gate's row."""

    def look() -> CircuitBreakerRow:
        with database.read() as session:
            return gate_of(session)

    return look


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_failure_gives_the_claim_back_and_leaves_the_rest(database: Database, failure: Failure) -> None:
    """The job is free, still owed and due later; neither mirror nor observations nor feed know of it."""
    store(database, body("c1"))
    lease = lease_of(database)

    verdict = put_off(database, lease, failure)

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
def test_an_outrun_failure_writes_nothing(
    database: Database, failure: Failure, look: Callable[[], CircuitBreakerRow]
) -> None:
    """Whose lease is not the newest any more has nothing to say, not even about Meld."""
    store(database, body("c1"))
    lease = lease_of(database)
    change(database, lease_token="newer")
    before = job_of(database)

    with pytest.raises(LeaseLostError):
        put_off(database, lease, failure)

    assert job_of(database).model_dump() == before.model_dump()
    assert (look().failures, look().paused_until) == (0, None)


def test_a_pause_names_its_reason(database: Database, look: Callable[[], CircuitBreakerRow]) -> None:
    """An operator can see why reads rest, since when and until when."""
    store(database, body("c1"))
    put_off(database, lease_of(database), Throttled(100))

    row = look()
    assert (row.reason, row.detail) == ("throttled", "Meld answered 429")
    assert seconds_until(row.since) == pytest.approx(0, abs=3)
    assert seconds_until(row.paused_until) == pytest.approx(100, abs=3)


def test_what_was_under_way_when_a_pause_began_does_not_lengthen_it(
    database: Database, look: Callable[[], CircuitBreakerRow]
) -> None:
    """A hundred reads that are refused together are one refusal."""
    store(database, *(body(f"c{number}") for number in range(10)))
    leases = [lease_of(database, f"c{number}", f"t{number}") for number in range(10)]

    put_off(database, leases[0], Throttled(5))
    for lease in leases[1:]:
        put_off(database, lease, Throttled(300))

    assert look().failures == 1
    assert seconds_until(look().paused_until) == pytest.approx(5, abs=3)
    assert [job_of(database, lease.connection_id).attempts for lease in leases] == [0] * 10


def test_one_connection_that_fails_again_and_again_is_no_outage(
    database: Database, look: Callable[[], CircuitBreakerRow]
) -> None:
    """Failures of one connection count once, however many there are."""
    store(database, body("c1"))
    for _ in range(MIN_OUTAGE_FAILURES + 3):
        change(database, due_at=datetime.now(UTC) - timedelta(seconds=1))
        put_off(database, lease_of(database), DOWN)

    assert (look().failures, look().paused_until) == (1, None)


def test_several_connections_that_fail_in_a_row_are_an_outage(
    database: Database, look: Callable[[], CircuitBreakerRow]
) -> None:
    """The fifth of five that are unavailable pauses all reads."""
    store(database, *(body(f"c{number}") for number in range(MIN_OUTAGE_FAILURES)))
    verdicts = [put_off(database, lease_of(database, f"c{number}"), DOWN) for number in range(MIN_OUTAGE_FAILURES)]

    assert [verdict.pause is not None for verdict in verdicts] == [False] * (MIN_OUTAGE_FAILURES - 1) + [True]
    assert look().reason == "unavailable"


def test_an_answer_in_between_is_no_outage(
    database: Database, refetcher: Refetcher, look: Callable[[], CircuitBreakerRow]
) -> None:
    """A good answer forgets the failures before it."""
    store(database, body("good"), *(body(f"c{number}") for number in range(MIN_OUTAGE_FAILURES)))
    for number in range(MIN_OUTAGE_FAILURES - 1):
        put_off(database, lease_of(database, f"c{number}"), DOWN)
    refetcher.refetch("good")
    put_off(database, lease_of(database, f"c{MIN_OUTAGE_FAILURES - 1}"), DOWN)

    assert (look().failures, look().paused_until) == (1, None)


@pytest.mark.parametrize("failure", [Absent(), Unreadable("the response is not JSON")], ids=repr)
def test_the_last_attempt_fails_the_webhooks_that_it_covers(database: Database, failure: Failure) -> None:
    """They are failed visibly, with the reason; those that came later are not."""
    store(database, body("c1"), body("c1"), body("c2"))
    change(database, attempts=MAX_ATTEMPTS - 1)
    lease = lease_of(database)

    verdict = put_off(database, lease, failure)

    with database.read() as session:
        errors = session.exec(select(WebhookRow.error).order_by(col(WebhookRow.id))).all()
    assert verdict.is_dead
    assert job_of(database).failed_at is not None
    assert webhook_states(database) == ["failed", "failed", "pending"]
    assert list(errors) == [verdict.detail, verdict.detail, None]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
@pytest.mark.parametrize("attempts", [0, MAX_ATTEMPTS - 1], ids=["first attempt", "last attempt"])
def test_a_webhook_that_comes_during_a_read_that_fails_is_followed_by_a_read(
    database: Database,
    new_refetcher: Callable[[], Refetcher],
    reader: ScriptedReader,
    failure: Failure,
    attempts: int,
) -> None:
    """Its read has to begin after it was stored, so the failure of one that began before says nothing about it."""

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


def test_a_wish_that_comes_during_the_last_attempt_is_followed_by_a_read(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """So has an operator's: it was answered with the promise of a read."""

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


def test_back_off_is_short_while_the_newest_webhook_is_fresh(database: Database) -> None:
    """Thirty seconds at most within the first hour, a quarter of an hour later."""
    store(database, body("c1"))
    change(database, attempts=MAX_ATTEMPTS - 2)
    fresh = put_off(database, lease_of(database), DOWN, jitter=1).delay
    with database.write() as session:
        session.exec(update(WebhookRow).values(received_at=database.now(-3700)))
    change(database, attempts=MAX_ATTEMPTS - 2, due_at=datetime.now(UTC) - timedelta(seconds=1))
    stale = put_off(database, lease_of(database), DOWN, jitter=1).delay

    assert (fresh, stale) == (30, 900)
