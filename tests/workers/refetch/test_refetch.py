import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col

from runtime.database import Database
from runtime.queues import circuit_breaker
from runtime.queues import reads as jobs
from schemas.meld.read_outcome import Absent, ReadOutcome, Refused, Throttled, Unavailable, Unreadable
from schemas.tables import ConnectionRow, ObservationRow, ReadRequestRow
from tests.support.row_lookups import all_rows, events_of, make_due, mirror_of, read_request_of, webhook_states
from tests.support.scripted_meld import ScriptedReader, found, make_refetcher
from tests.support.webhook_factory import DELETED, body, store
from workers.refetch.recheck_delays import MAX_API_LAG_SECONDS
from workers.refetch.refetch import Refetcher
from workers.refetch.retry_policy import MAX_ATTEMPTS


def test_a_webhook_leads_to_a_mirror_row_and_an_event(database: Database, refetcher: Refetcher) -> None:
    """One webhook of a new connection leads to one mirror row and one event without a previous state."""
    store(database, body("c1", event_id="e1", newStatus="ACTIVE"))

    refetcher.refetch("c1")

    (event,) = events_of(database)
    assert (event.type, event.sequence, event.position) == ("connection.status_changed", "00000001", 1)
    assert event.data["previous"] is None
    assert event.data["current"] == {"status": "ACTIVE", "status_reason": None}
    assert event.data["cause"]["trigger"] == "webhook"
    assert event.data["cause"]["webhook_event_ids"] == ["e1"]
    assert event.data["connection"]["sequence"] == 1
    assert webhook_states(database) == ["processed"]
    (connection,) = all_rows(database, ConnectionRow)
    assert (connection.status, connection.sequence) == ("ACTIVE", 1)


def test_events_of_a_replay_name_it(database: Database, refetcher: Refetcher, reader: ScriptedReader) -> None:
    """An event of a read that a replay requested names the replay; other events do not."""
    store(database, body("c1"))
    refetcher.refetch("c1")
    reader.answers["c1"] = found("c1", "DEGRADED")
    with database.write() as session:
        jobs.request_reads(database, session, ["c1"], "replay", replay_id="r1")
    refetcher.refetch("c1")

    first, second = (event.data["cause"] for event in events_of(database))
    observed = [(each.trigger, each.replay_id) for each in all_rows(database, ObservationRow)]
    assert "replay_id" not in first
    assert (second["trigger"], second["webhook_event_ids"], second["replay_id"]) == ("replay", [], "r1")
    assert observed == [("webhook", None), ("replay", "r1")]


def test_a_read_without_changes_only_updates_the_time(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """A second read with the same answer writes no observation and no event, and updates ``checked_at``."""
    store(database, body("c1"))
    refetcher.refetch("c1")
    (first,) = all_rows(database, ConnectionRow)
    store(database, body("c1"))

    refetcher.refetch("c1")

    (second,) = all_rows(database, ConnectionRow)
    assert second.checked_at > first.checked_at
    assert second.observed_at == first.observed_at
    assert reader.reads["c1"] == 2
    assert len(all_rows(database, ObservationRow)) == 1
    assert len(events_of(database)) == 1


def test_status_and_reason_changes_have_different_types(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """Another status is one type of event; the same status with another reason is the other."""
    for answer in (
        found("c1", "ACTIVE"),
        found("c1", "RECONNECT_REQUIRED", statusReason="LOGIN_REQUIRED"),
        found("c1", "RECONNECT_REQUIRED", statusReason="OTHER"),
    ):
        reader.answers["c1"] = answer
        store(database, body("c1"))
        refetcher.refetch("c1")

    told = [(event.type, event.data["previous"], event.data["current"]) for event in events_of(database)]
    active = {"status": "ACTIVE", "status_reason": None}
    login = {"status": "RECONNECT_REQUIRED", "status_reason": "LOGIN_REQUIRED"}
    other = {"status": "RECONNECT_REQUIRED", "status_reason": "OTHER"}
    assert told == [
        ("connection.status_changed", None, active),
        ("connection.status_changed", active, login),
        ("connection.status_reason_changed", login, other),
    ]


def test_nothing_is_read_without_a_pending_request(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """A message for a connection without a pending request costs no read of Meld."""
    refetcher.refetch("c1")

    assert reader.reads["c1"] == 0


def test_a_burst_costs_two_reads(database: Database, refetcher: Refetcher, reader: ScriptedReader) -> None:
    """A hundred webhooks, ninety-nine of them during the first read, cost one more read."""

    def burst() -> ReadOutcome:
        reader.answers["c1"] = found("c1")
        store(database, *(body("c1") for _ in range(99)))
        refetcher.refetch("c1")
        return found("c1")

    store(database, body("c1"))
    reader.answers["c1"] = burst

    refetcher.refetch("c1")
    refetcher.refetch("c1")
    refetcher.refetch("c1")

    assert reader.reads["c1"] == 2
    assert webhook_states(database) == ["processed"] * 100


def test_a_webhook_stored_during_a_read_notifies_a_worker_again(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str]
) -> None:
    """A webhook that arrives during a read is not covered by it, and does not wait for the scheduler."""

    def late() -> ReadOutcome:
        assert store(database, body("c1")) == []
        return found("c1")

    store(database, body("c1"))
    reader.answers["c1"] = late

    refetcher.refetch("c1")

    assert calls == ["c1"]
    assert webhook_states(database) == ["processed", "pending"]


def test_an_older_read_never_overwrites_a_newer_one(
    database: Database, new_refetcher: Callable[[], Refetcher], reader: ScriptedReader
) -> None:
    """A slow read whose lease ended is discarded after a newer one was committed: 50 of 50 times (fencing token)."""
    stale = 0
    for number in range(50):
        connection_id = f"c{number}"
        older, newer = new_refetcher(), new_refetcher()

        def overtaken(connection_id: str = connection_id, newer: Refetcher = newer) -> ReadOutcome:
            # Read while the old state held; before it is written, the lease ends and another reads the new state.
            with database.write() as session:
                past = datetime.now(UTC) - timedelta(seconds=1)
                session.exec(
                    update(ReadRequestRow)
                    .where(col(ReadRequestRow.connection_id) == connection_id)
                    .values(leased_until=past)
                )
            reader.answers[connection_id] = found(connection_id, "RECONNECT_REQUIRED")
            newer.refetch(connection_id)
            return found(connection_id, "ACTIVE")

        store(database, body(connection_id))
        reader.answers[connection_id] = overtaken
        older.refetch(connection_id)
        with database.read() as session:
            row = session.get(ConnectionRow, connection_id)
            stale += row is None or row.status != "RECONNECT_REQUIRED"

    assert stale == 0


def test_one_read_at_a_time(database: Database, new_refetcher: Callable[[], Refetcher], reader: ScriptedReader) -> None:
    """Sixteen workers that are notified at once for one connection read it once."""
    store(database, body("c1"))
    workers = [threading.Thread(target=new_refetcher().refetch, args=("c1",)) for _ in range(16)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert reader.reads["c1"] == 1


@pytest.mark.parametrize(
    "failure", [Absent(), Unavailable("Meld answered 500"), Unreadable("the response is not JSON")], ids=repr
)
def test_a_connection_is_given_up_after_twelve_attempts(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, failure: ReadOutcome
) -> None:
    """After twelve failed attempts the webhook is failed and the mirror is unchanged."""
    store(database, body("c1", newStatus="ACTIVE"))
    reader.answers["c1"] = failure

    for _ in range(MAX_ATTEMPTS):
        make_due(database)
        refetcher.refetch("c1")

    job = read_request_of(database, "c1")
    assert reader.reads["c1"] == MAX_ATTEMPTS
    assert job.failed_at is not None
    assert job.error
    assert webhook_states(database) == ["failed"]
    assert all_rows(database, ConnectionRow) == []


def test_a_new_webhook_revives_a_connection_that_was_given_up(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """The next webhook resets the attempts, and its read processes the failed webhooks too."""
    store(database, body("c1"))
    reader.answers["c1"] = Absent()
    for _ in range(MAX_ATTEMPTS):
        make_due(database)
        refetcher.refetch("c1")
    reader.answers["c1"] = found("c1")

    called = store(database, body("c1"))
    refetcher.refetch("c1")

    assert called == ["c1"]
    assert webhook_states(database) == ["processed", "processed"]
    assert read_request_of(database, "c1").failed_at is None


@pytest.mark.parametrize("failure", [Throttled(None), Throttled(7), Refused("Meld answered 401")], ids=repr)
def test_a_failure_of_meld_opens_the_circuit_breaker_and_costs_no_attempt(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, failure: ReadOutcome
) -> None:
    """While it is open nobody reads; half-open, one worker probes, and its success closes it."""
    store(database, body("c1"), body("c2"))
    reader.answers["c1"] = failure
    for _ in range(MAX_ATTEMPTS + 2):
        make_due(database)
        refetcher.refetch("c1")
    reader.answers["c1"] = found("c1")

    refetcher.refetch("c2")
    assert reader.reads["c2"] == 0
    assert read_request_of(database, "c1").attempts == 0
    make_due(database)
    refetcher.refetch("c1")
    refetcher.refetch("c2")

    with database.read() as session:
        assert circuit_breaker.get_open_circuit(session) is None
    assert webhook_states(database) == ["processed", "processed"]


def test_an_outage_gives_up_no_connection(database: Database, refetcher: Refetcher, reader: ScriptedReader) -> None:
    """Failures of several connections in a row open the circuit breaker, and no connection runs out of attempts."""
    ids = [f"c{number}" for number in range(10)]
    store(database, *(body(id_) for id_ in ids))
    for id_ in ids:
        reader.answers[id_] = Unavailable("Meld answered 503")

    for _ in range(3 * MAX_ATTEMPTS):
        make_due(database)
        for id_ in ids:
            refetcher.refetch(id_)
    for id_ in ids:
        reader.answers[id_] = found(id_)
    make_due(database)
    for id_ in ids:
        refetcher.refetch(id_)

    assert webhook_states(database) == ["processed"] * 10


def test_a_deleted_connection_that_is_gone_becomes_a_tombstone(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """A DELETED webhook, then 404: one DELETED status event, and the row stays readable."""
    store(database, body("c1"))
    refetcher.refetch("c1")
    reader.answers["c1"] = Absent()

    for _ in range(2):
        store(database, body("c1", DELETED))
        refetcher.refetch("c1")

    (connection,) = all_rows(database, ConnectionRow)
    assert (connection.status, connection.customer_id) == ("DELETED", "cust")
    assert [event.data["current"]["status"] for event in events_of(database)] == ["ACTIVE", "DELETED"]
    assert webhook_states(database) == ["processed"] * 3


def test_an_end_is_not_taken_back_by_an_older_answer(database: Database, reader: ScriptedReader) -> None:
    """Soon after its deletion Meld may still show a connection: it is rechecked, and accepted if it stays so."""
    now = datetime.now(UTC)
    refetcher = make_refetcher(database, reader, clock=lambda: now)
    statuses = []
    for hint, answer in ((DELETED, Absent()), (DELETED, found("c1")), (DELETED, Absent()), ("OTHER", found("c1"))):
        store(database, body("c1", hint))
        reader.answers["c1"] = answer
        refetcher.refetch("c1")
        statuses.append((mirror_of(database, "c1").status, read_request_of(database, "c1").trigger))
    now += timedelta(seconds=MAX_API_LAG_SECONDS + 1)
    make_due(database)
    refetcher.refetch("c1")

    assert statuses == [("DELETED", "webhook"), ("DELETED", "recheck"), ("DELETED", "webhook"), ("DELETED", "recheck")]
    assert mirror_of(database, "c1").status == "ACTIVE"
    assert [event.data["current"]["status"] for event in events_of(database)] == ["DELETED", "ACTIVE"]


def test_a_deleted_connection_never_seen_becomes_a_tombstone(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """A DELETED webhook of a connection that was never read, then 404: a tombstone with the account of the webhook."""
    reader.answers["c1"] = Absent()
    store(database, body("c1", DELETED))

    refetcher.refetch("c1")

    (connection,) = all_rows(database, ConnectionRow)
    (event,) = events_of(database)
    assert (connection.status, connection.account_id) == ("DELETED", "acct")
    assert event.source == "urn:meld:account:acct"


def test_leases_are_released_when_a_process_ends(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """The read of a process that ends is free for others at once, and its late result is discarded."""

    def interrupted() -> ReadOutcome:
        refetcher.release_leases()
        return found("c1")

    store(database, body("c1"))
    reader.answers["c1"] = interrupted

    refetcher.refetch("c1")

    job = read_request_of(database, "c1")
    assert (job.lease_token, job.attempts, job.completed, job.requested) == (None, 0, 0, 1)
    assert all_rows(database, ConnectionRow) == []


def test_a_connection_that_crashes_its_workers_is_given_up(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """Attempts are counted before the read, so a connection that crashes its process is given up too."""
    store(database, body("c1"))
    with database.write() as session:
        session.exec(update(ReadRequestRow).values(attempts=MAX_ATTEMPTS))

    refetcher.refetch("c1")

    assert reader.reads["c1"] == 0
    assert webhook_states(database) == ["failed"]


def test_a_request_during_a_lease_is_never_lost(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """An operator's request during a read leads to another read."""

    def asked() -> ReadOutcome:
        reader.answers["c1"] = found("c1")
        with database.write() as session:
            jobs.request_reads(database, session, ["c1"], "operator")
        return found("c1")

    store(database, body("c1"))
    reader.answers["c1"] = asked

    refetcher.refetch("c1")
    refetcher.refetch("c1")

    assert reader.reads["c1"] == 2


@pytest.mark.parametrize("answer", [Absent(), Unreadable("the response is not JSON")], ids=repr)
def test_a_probe_that_meld_answers_closes_the_circuit_breaker(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, answer: ReadOutcome
) -> None:
    """Even a 404 or an unreadable answer to the probe shows that Meld works again."""
    store(database, body("c1"), body("c2"))
    reader.answers["c1"] = Throttled(7)
    refetcher.refetch("c1")
    reader.answers["c1"] = answer

    make_due(database)
    refetcher.refetch("c1")
    refetcher.refetch("c2")

    assert reader.reads["c2"] == 1


def test_a_fresh_connection_is_retried_during_an_outage(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """Given up or not, a connection with a fresh webhook is retried within half a minute until Meld answers."""
    store(database, body("c1"))
    reader.answers["c1"] = Unavailable("Meld answered 500")
    for _ in range(MAX_ATTEMPTS + 5):
        make_due(database)
        refetcher.refetch("c1")

    job = read_request_of(database, "c1")
    assert job.due_at is not None
    assert (job.due_at - datetime.now(UTC)).total_seconds() <= 30
    reader.answers["c1"] = found("c1")
    make_due(database)
    refetcher.refetch("c1")
    assert webhook_states(database) == ["processed"]


def test_a_refusal_of_one_connection_delays_no_other(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """A 403 of one connection while others succeed becomes that connection's failure, with a last attempt."""
    reader.answers["bad"] = Refused("Meld answered 403")
    store(database, body("bad"))
    paused = 0
    for number in range(MAX_ATTEMPTS + 2):
        make_due(database)
        refetcher.refetch("bad")
        with database.read() as session:
            paused += circuit_breaker.get_open_circuit(session) is not None
        store(database, body(f"c{number}"))
        make_due(database)
        refetcher.refetch(f"c{number}")

    assert paused == 1
    assert read_request_of(database, "bad").failed_at is not None
    assert webhook_states(database).count("processed") == MAX_ATTEMPTS + 2


def test_an_answer_that_cannot_be_stored_is_a_failure_of_its_connection(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """If an answer cannot be written, the lease is released and the row names the reason."""
    strange = found("c1")
    object.__setattr__(strange.snapshot, "service_provider_details", {"object": object()})
    reader.answers["c1"] = strange
    store(database, body("c1"))

    refetcher.refetch("c1")

    job = read_request_of(database, "c1")
    assert (job.lease_token, "cannot be stored" in (job.error or "")) == (None, True)


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+10:00", "yesterday", 12])
def test_a_time_beyond_the_calendar_is_none(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, time: object
) -> None:
    """The connection is mirrored all the same."""
    reader.answers["c1"] = found("c1", successfullyAggregatedAt=time)
    store(database, body("c1"))

    refetcher.refetch("c1")

    (connection,) = all_rows(database, ConnectionRow)
    assert connection.aggregated_at is None
