from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import update
from sqlmodel import col, select

from runtime import field_diff
from runtime.clock import utcnow
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import circuit_breaker
from runtime.queues import reads as jobs
from schemas import tables
from schemas.events import Event
from schemas.meld.connection import Snapshot
from schemas.meld.read_outcome import Absent, Found, ReadOutcome, Refused, Throttled, Unavailable, Unreadable
from schemas.replays import ReadPreview
from schemas.tables import CircuitBreakerRow, ConnectionRow
from tests.support.random_rounds import rounds
from tests.support.scripted_meld import ScriptedReader, found, make_refetcher
from tests.support.table_snapshot import assert_unchanged
from tests.support.webhook_factory import DELETED, body, store
from tests.workers.history.random_past import Past, Read, random_reads, reads
from workers.refetch.preview import MAX_WAIT_SECONDS, RefetchPreview
from workers.refetch.retry_policy import MIN_OUTAGE_FAILURES

EXAMPLES = settings(max_examples=rounds(5), suppress_health_check=[HealthCheck.function_scoped_fixture])


def preview_on(
    database: Database,
    reader: ScriptedReader,
    rate: float = 1000,
    wait: Callable[[float], bool] = lambda _seconds: False,
) -> RefetchPreview:
    return RefetchPreview(database=database, reader=reader, clock=utcnow, rate=rate, wait=wait)


def previewed(database: Database, outcome: ReadOutcome, id_: str = "c1") -> ReadPreview:
    """Preview one read with this outcome, and check that it writes nothing."""
    reader = ScriptedReader()
    reader.answers[id_] = outcome
    with assert_unchanged(database):
        (one,) = preview_on(database, reader).preview([id_])
    return one


def events_of(database: Database) -> list[Event]:
    with database.read() as session:
        rows = session.exec(select(tables.EventRow).order_by(col(tables.EventRow.position))).all()
        return [Event.from_row(row) for row in rows]


def mirror_of(database: Database, id_: str) -> ConnectionRow | None:
    with database.read() as session:
        return session.get(ConnectionRow, id_)


@EXAMPLES
@given(made=random_reads(), read=reads())
def test_the_preview_equals_the_read(database: Database, made: list[Read], read: Read) -> None:
    """Whatever was read before and is read now, the preview shows what the read itself changes and emits."""
    past = Past(database)
    past.clear()
    past.make_reads(*made)
    snapshot = Snapshot.from_document(read.seen) if read.seen is not None else None
    outcome: ReadOutcome = Found(snapshot) if snapshot is not None else Absent()
    told, before = events_of(database), mirror_of(database, read.id)

    one = previewed(database, outcome, read.id)

    with database.write() as session:
        jobs.request_reads(database, session, [read.id], "replay", replay_id="r1")
    reader = ScriptedReader()
    reader.answers[read.id] = outcome
    # Later than all that was read, as a real read is.
    make_refetcher(database, reader, clock=past.tick).refetch(read.id)
    new = events_of(database)[len(told) :]
    names = ("previous", "current", "role")
    assert [(each.type, *(each.model_dump().get(name) for name in names)) for each in one.events] == [
        (event.type, *(event.data.get(name) for name in names)) for event in new
    ]
    after = mirror_of(database, read.id)
    assert one.changes == field_diff.diff_connections(before, after)
    assert one.unshown_changes == field_diff.list_hidden_changes(before, after)
    assert (one.failure is None) or before == after
    assert {event.data["cause"]["trigger"] for event in new} <= {"webhook", "replay"}


def test_a_change_is_listed_field_by_field(database: Database) -> None:
    """The preview also lists the events and the siblings that would be read."""
    store(database, body("c1"))
    make_refetcher(database, ScriptedReader()).refetch("c1")

    one = previewed(
        database,
        found("c1", "DEGRADED", duplicateConnectionIds=["c2"], activeDuplicateConnectionId="c2", unknownField=1),
    )

    assert {each.field: (each.before, each.after) for each in one.changes} == {
        "status": ("ACTIVE", "DEGRADED"),
        "primary_duplicate_id": (None, "c2"),
        "duplicate_ids": ([], ["c2"]),
    }
    assert one.unshown_changes == ["unknownField"]
    assert [(each.type, each.role) for each in one.events] == [
        ("connection.status_changed", None),
        ("connection.primary_duplicate_moved", "lost_primary"),
    ]
    assert one.siblings == ["c2"]
    assert not one.is_clean


def test_an_equal_answer_would_change_nothing(database: Database) -> None:
    """An answer that equals the mirror has an empty preview."""
    store(database, body("c1"))
    make_refetcher(database, ScriptedReader()).refetch("c1")

    assert previewed(database, found("c1")).is_clean


def test_a_connection_never_seen_would_be_new(database: Database) -> None:
    """A connection at first sight would emit its first status."""
    store(database, body("c1"))

    one = previewed(database, found("c1"))

    assert [(each.previous, each.type) for each in one.events] == [(None, "connection.status_changed")]
    assert ("status", None, "ACTIVE") in [(each.field, each.before, each.after) for each in one.changes]


def test_an_announced_deletion_is_a_tombstone(database: Database) -> None:
    """After a DELETED webhook a 404 means a deletion; without one the read would fail."""
    store(database, body("c1"), body("c2"))
    for id_ in ("c1", "c2"):
        make_refetcher(database, ScriptedReader()).refetch(id_)
    store(database, body("c1", DELETED))

    gone, doubted = previewed(database, Absent(), "c1"), previewed(database, Absent(), "c2")

    assert [(each.type, str(each.current)) for each in gone.events] == [
        ("connection.status_changed", "status='DELETED' status_reason=None")
    ]
    assert doubted.failure is not None
    assert "Meld answered 404" in doubted.failure
    assert (doubted.changes, doubted.events) == ([], [])


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Unavailable("Meld answered 500"), "Meld answered 500"),
        (Unreadable("the response is no JSON", "<html>"), "the response is no JSON: <html>"),
    ],
)
def test_a_read_that_would_fail_is_listed(database: Database, outcome: ReadOutcome, words: str) -> None:
    """The preview has the error that the webhook would have; the dry run goes on."""
    assert previewed(database, outcome).failure == words


def out_of_reach(database: Database, reader: ScriptedReader, ids: list[str]) -> tuple[int, str, float]:
    """Preview until it fails; return how many reads it previewed, the error, and how long it would have waited."""
    waits: list[float] = []
    looked = []
    with assert_unchanged(database), pytest.raises(OutOfReachError) as error:
        looked.extend(preview_on(database, reader, wait=lambda seconds: bool(waits.append(seconds))).preview(ids))
    return len(looked), str(error.value), sum(waits)


def scripted(**answers: Any) -> ScriptedReader:
    reader = ScriptedReader()
    reader.answers.update(answers)
    return reader


def test_refused_credentials_end_the_dry_run(database: Database) -> None:
    """At once if no read succeeded before; a refusal of one connection alone is only listed."""
    refused = Refused("Meld answered 401")
    _none, words, _waited = out_of_reach(database, scripted(a=refused), ["a", "b"])
    told = list(preview_on(database, scripted(b=refused)).preview(["a", "b", "c"]))

    assert words == "Meld answered 401: it refuses our credentials. Check MELDWATCH_MELD_API_KEY."
    assert [each.failure for each in told] == [None, "Meld answered 401", None]


@pytest.mark.parametrize("retry_after", [None, 3.0, 3600.0])
def test_a_429_is_retried_within_bounds(database: Database, retry_after: float | None) -> None:
    """A 429 is retried after its time; if it stays, the dry run ends, and the circuit breaker is unchanged."""
    answers = iter([Throttled(retry_after and min(retry_after, 3)), found("a")])
    (one,) = preview_on(database, scripted(a=lambda: next(answers))).preview(["a"])
    looked, words, waited = out_of_reach(database, scripted(a=Throttled(retry_after)), ["a"])

    assert one.failure is None
    assert (looked, words) == (0, "Meld answers 429 again and again. Try again later, or at a lower rate.")
    assert waited <= MAX_WAIT_SECONDS


def test_an_outage_ends_the_dry_run(database: Database) -> None:
    """Failures of several connections in a row are an outage of Meld; earlier previews stay valid."""
    away = Unavailable("Meld answered 502")
    ids = [f"c{number}" for number in range(20)]
    looked, words, _waited = out_of_reach(database, scripted(**dict.fromkeys(ids[3:], away)), ids)

    assert looked == 3 + MIN_OUTAGE_FAILURES - 1
    assert words == "Meld fails for one connection after another: Meld answered 502."


def pause(database: Database, reason: str, seconds: float) -> None:
    with database.write() as session:
        circuit_breaker.open_circuit(database, session, reason=reason, detail="Meld answered 429", seconds=60)
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        session.exec(
            update(CircuitBreakerRow)
            .where(col(CircuitBreakerRow.name) == circuit_breaker.BREAKER_NAME)
            .values(paused_until=until)
        )


@pytest.mark.parametrize(("reason", "most"), [("throttled", 2 * MAX_WAIT_SECONDS), ("refused", 0)])
def test_an_open_circuit_breaker_is_respected(database: Database, reason: str, most: float) -> None:
    """No read begins while it is open; the wait has a bound, and is zero for refused credentials."""
    pause(database, reason, 600)
    reader = ScriptedReader()

    looked, words, waited = out_of_reach(database, reader, ["a"])

    assert (looked, dict(reader.reads)) == (0, {})
    assert words.startswith("Reads of Meld are paused")
    assert waited <= most


def test_a_half_open_circuit_breaker_is_left_unchanged(database: Database) -> None:
    """The dry run reads when it is half-open, and leaves it to the workers to close it."""
    pause(database, "throttled", -1)

    assert previewed(database, found("c1")).failure is None
    with database.read() as session:
        assert circuit_breaker.get_open_circuit(session) is not None


def test_it_reads_at_its_rate(database: Database) -> None:
    """It waits after each read for the rest of its interval, and stops when told to."""
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 3

    looked = list(preview_on(database, ScriptedReader(), rate=0.1, wait=wait).preview("abcdef"))

    assert len(looked) == 3
    assert all(0 < seconds <= 10 for seconds in waits)
