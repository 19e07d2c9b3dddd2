import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import select

from runtime.database import Database
from runtime.queues import circuit_breaker, reads
from schemas.message_names import Trigger
from schemas.tables import ReadRequestRow, WebhookRow
from tests.service.fakes import HandClock
from tests.support import row_factory
from tests.support.webhook_factory import body, store
from workers.refetch.lease import IDS_PER_STATEMENT, ReadLease, acquire_lease, release_leases, update_webhooks

LEASE_SECONDS = 30.0


@pytest.fixture
def hand() -> HandClock:
    """The time that the database goes by."""
    return HandClock()


@pytest.fixture
def timed(database_url: str, hand: HandClock) -> Iterator[Database]:
    """A database that goes by a time set by hand."""
    database = Database(database_url, clock=hand)
    yield database
    database.close()


def lease_of(database: Database, token: str = "t", connection_id: str = "c1") -> ReadLease | None:
    with database.write() as session:
        return acquire_lease(database, session, connection_id, token=token, lease_seconds=LEASE_SECONDS)


def request_read(database: Database, trigger: Trigger = "operator", connection_id: str = "c1") -> None:
    with database.write() as session:
        reads.request_reads(database, session, [connection_id], trigger)


def job_of(database: Database, connection_id: str = "c1") -> ReadRequestRow:
    with database.read() as session:
        return session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == connection_id)).one()


def test_one_of_many_workers_gets_the_lease(database: Database) -> None:
    """Of sixteen workers that want the lease at once, one gets it: ten times of ten."""
    winners = []
    for number in range(10):
        request_read(database, connection_id=f"c{number}")
        ready = threading.Barrier(16)
        leases: list[ReadLease | None] = []

        def lease(
            name: str,
            connection_id: str = f"c{number}",
            ready: threading.Barrier = ready,
            leases: list[ReadLease | None] = leases,
        ) -> None:
            ready.wait()
            leases.append(lease_of(database, name, connection_id))

        threads = [threading.Thread(target=lease, args=(f"worker {index}",)) for index in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners.append(sum(each is not None for each in leases))

    assert winners == [1] * 10


def request_by_replay(database: Database, connection_id: str = "c1") -> None:
    """Request a read as a replay does."""
    with database.write() as session:
        reads.request_reads(database, session, [connection_id], "replay", replay_id="r1")


def fail_webhooks(database: Database) -> None:
    """Mark webhooks as failed, as the last attempt does."""
    with database.write() as session:
        session.exec(update(WebhookRow).values(failed_at=database.now(), error="Meld answered 500"))


def receive_webhook(database: Database) -> None:
    """Store a webhook."""
    store(database, body("c1"))


REASONS: dict[str, tuple[list[Any], Any]] = {
    "nobody else": ([request_by_replay], ("replay", "r1")),
    "a webhook that waits": ([receive_webhook, request_by_replay], ("webhook", None)),
    "a webhook that was given up": ([receive_webhook, fail_webhooks, request_by_replay], ("replay", "r1")),
    "a webhook that comes later": ([request_by_replay, receive_webhook], ("webhook", None)),
    "given up, and one that comes later": (
        [receive_webhook, fail_webhooks, request_by_replay, receive_webhook],
        ("webhook", None),
    ),
    "an operator later": ([request_by_replay, request_read], ("operator", None)),
    "an operator before": ([request_read, request_by_replay], ("replay", "r1")),
}


@pytest.mark.parametrize("who", REASONS)
def test_a_replay_is_the_cause_if_nothing_else_requested_the_read(database: Database, who: str) -> None:
    """The lease names the replay unless a webhook waits for the read or another request came later."""
    requests, expected = REASONS[who]
    for each in requests:
        each(database)

    lease = lease_of(database)

    assert lease is not None
    assert (lease.cause, lease.replay_id) == expected
    with database.read() as session:
        assert lease.event_ids == list(session.exec(select(WebhookRow.event_id).order_by(WebhookRow.id)).all())


def test_a_lease_names_the_request(timed: Database) -> None:
    """It has the number that the commit completes, and the trigger of the request."""
    request_read(timed, "reconcile")
    request_read(timed, "operator")

    lease = lease_of(timed, "token")

    assert lease is not None
    assert (lease.connection_id, lease.token, lease.generation, lease.attempts) == ("c1", "token", 2, 1)
    assert (lease.trigger, lease.cause, lease.webhooks, lease.is_dead, lease.is_probe) == (
        "operator",
        "operator",
        (),
        False,
        False,
    )


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(None, id="never seen"),
        pytest.param({"requested": 3, "completed": 3}, id="nothing pending"),
        pytest.param({"requested": 3, "completed": 3, "due_at": -60.0}, id="nothing pending, though due"),
        pytest.param({"requested": 1, "due_at": 0.5}, id="not due yet"),
        pytest.param({"requested": 1, "due_at": None}, id="given up"),
        pytest.param({"requested": 1, "due_at": -60.0, "lease_token": "x", "leased_until": 0.5}, id="somebody at it"),
        pytest.param(
            {"requested": 1, "due_at": -60.0, "lease_token": "x", "leased_until": 0.0}, id="until this moment"
        ),
    ],
)
def test_there_is_nothing_to_lease(timed: Database, hand: HandClock, row: dict[str, object] | None) -> None:
    """A read that is not pending, not due or not free is left unchanged."""
    if row is not None:
        times = {name: hand.now + timedelta(seconds=value) for name, value in row.items() if isinstance(value, float)}
        row_factory.store(timed, row_factory.read_request("c1", **{**row, **times}))

    assert lease_of(timed) is None
    if row is not None:
        assert job_of(timed).attempts == 0


def test_a_lease_ends(timed: Database, hand: HandClock) -> None:
    """The lease of a dead worker can be acquired when it has ended, and not before; each attempt counts."""
    request_read(timed)
    first = lease_of(timed, "first")
    hand.move(LEASE_SECONDS - 0.1)
    early = lease_of(timed, "early")
    hand.move(0.2)
    second = lease_of(timed, "second")

    assert first is not None
    assert early is None
    assert second is not None
    assert (second.generation, second.attempts, job_of(timed).lease_token) == (first.generation, 2, "second")


def test_a_lease_clears_the_notification(timed: Database) -> None:
    """The message has arrived: if the worker dies, the scheduler waits for the end of the lease only."""
    request_read(timed)
    before = job_of(timed).woken_at
    lease_of(timed)

    assert before is not None
    assert job_of(timed).woken_at is None


def test_a_lease_covers_the_webhooks_before_it(database: Database) -> None:
    """It covers all pending webhooks of the connection that were stored before it, in order, and no others."""
    store(database, body("c1", event_id="e1"), body("c2", event_id="e2"), body(None, event_id="e3"))
    store(database, body("c1", event_id="e4"))
    with database.write() as session:
        session.exec(update(WebhookRow).where(WebhookRow.event_id == "e1").values(processed_at=database.now()))
    store(database, body("c1", event_id="e5"))

    lease = lease_of(database)
    store(database, body("c1", event_id="e6"))

    assert lease is not None
    assert (lease.event_ids, lease.cause) == (["e4", "e5"], "webhook")


def test_a_failed_webhook_is_covered_again(database: Database) -> None:
    """A failed webhook is not processed: the next read covers it too."""
    store(database, body("c1", event_id="e1"))
    with database.write() as session:
        session.exec(update(WebhookRow).values(failed_at=database.now(), error="x"))

    lease = lease_of(database)

    assert lease is not None
    assert lease.event_ids == ["e1"]


def test_nothing_is_leased_while_the_circuit_breaker_is_open(timed: Database, hand: HandClock) -> None:
    """The lease is released at once and costs no attempt; half-open, one worker may probe."""
    for number in range(3):
        request_read(timed, connection_id=f"c{number}")
    with timed.write() as session:
        circuit_breaker.open_circuit(timed, session, reason="throttled", detail="x", seconds=10)

    during = lease_of(timed, "a", "c0")
    paused = job_of(timed, "c0")
    hand.move(10.5)
    probes = [lease_of(timed, f"t{number}", f"c{number}") for number in range(3)]

    assert during is None
    assert (paused.attempts, paused.lease_token, paused.leased_until) == (0, None, None)
    assert [probe is not None and probe.is_probe for probe in probes] == [True, False, False]
    assert [job_of(timed, f"c{number}").attempts for number in range(3)] == [1, 0, 0]


def test_leases_are_released_together(timed: Database) -> None:
    """A process that ends releases its own leases and no others; they cost no attempt."""
    for number in range(5):
        request_read(timed, connection_id=f"c{number}")
        lease_of(timed, f"t{number}", f"c{number}")
    with timed.write() as session:
        release_leases(session, ["t1", "t3", "never given"])

    found = {number: job_of(timed, f"c{number}") for number in range(5)}
    assert [found[number].lease_token for number in range(5)] == ["t0", None, "t2", None, "t4"]
    assert [found[number].attempts for number in range(5)] == [1, 0, 1, 0, 1]
    again = lease_of(timed, "again", "c1")
    assert again is not None
    assert again.generation == 1


def test_attempts_never_fall_below_zero(database: Database) -> None:
    """A webhook during a read resets the attempts; releasing the lease then subtracts none."""
    store(database, body("c1"))
    lease_of(database)
    store(database, body("c1"))
    with database.write() as session:
        release_leases(session, ["t"])

    assert job_of(database).attempts == 0


def test_any_number_of_webhooks_is_marked(database: Database) -> None:
    """More webhooks than one statement takes are all marked."""
    store(database, *(body("c1") for _ in range(400)))
    store(database, *(body("c1") for _ in range(400)))
    lease = lease_of(database)
    assert lease is not None
    assert len(lease.webhooks) == 800 > IDS_PER_STATEMENT

    with database.write() as session:
        update_webhooks(session, lease, processed_at=database.now())

    with database.read() as session:
        pending = session.exec(select(WebhookRow).where(WebhookRow.processed_at == None)).all()  # noqa: E711 - SQL
    assert list(pending) == []
