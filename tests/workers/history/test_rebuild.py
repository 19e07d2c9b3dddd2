import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import text
from sqlmodel import col, select

from runtime.database import Database
from schemas.meld.connection import Snapshot
from schemas.tables import AuditRow, ConnectionRow, EventRow, ObservationRow, ReadRequestRow
from tests.support.random_rounds import rounds
from tests.support.scripted_meld import document
from tests.workers.history.random_past import BEGAN, Past, Read, random_reads
from workers.refetch.commit import LeaseLostError, commit_read
from workers.refetch.mirror_row import Reading

READS_BESIDE = rounds(10)
"""Reads that workers make while a check or a repair runs beside them."""

EXAMPLES = settings(max_examples=rounds(6), suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def past(database: Database) -> Past:
    """An empty history, on each database."""
    return Past(database)


def change(database: Database, *statements: str) -> None:
    """Damage rows with SQL statements."""
    with database.write() as session:
        for statement in statements:
            session.connection().execute(text(statement))


def eventful(past: Past) -> None:
    """Make reads of three connections: ten events, and a group whose primary moves."""
    together = {"duplicateConnectionIds": ["b"]}
    past.make_reads(
        Read("a", document("a"), "webhook"),
        Read("a", document("a", "RECONNECT_REQUIRED", statusReason="LOGIN_REQUIRED"), "webhook"),
        Read("a", document("a", "RECONNECT_REQUIRED", statusReason="OTHER"), "replay"),
        Read("b", document("b", "ACTIVE", duplicateConnectionIds=["a"], activeDuplicateConnectionId="a"), "reconcile"),
        Read("a", document("a", "ACTIVE", **together, activeDuplicateConnectionId="a"), "webhook"),
        Read("a", document("a", "DEGRADED", **together, activeDuplicateConnectionId="b"), "webhook"),
        Read("a", document("a", "DEGRADED", **together, activeDuplicateConnectionId="b", more=1), "webhook"),
        Read("c", document("c", customerId="other"), "operator"),
        Read("c", None, "webhook"),
    )


@EXAMPLES
@given(random_reads())
def test_the_projection_equals_the_live_tables(past: Past, made: list[Read]) -> None:
    """For any reads, in any order and with any trigger, the check finds no difference."""
    past.clear()
    past.make_reads(*made)

    assert past.check() == []


@EXAMPLES
@given(random_reads())
def test_nothing_is_written_where_nothing_differs(past: Past, made: list[Read]) -> None:
    """Neither a check nor a repair writes a row if nothing differs: no state regresses, no event is appended."""
    past.clear()
    past.make_reads(*made)
    before = past.all()

    findings = [*past.check(), *past.repair()]

    assert findings == []
    assert before == past.all()


DAMAGE = {
    "status": "UPDATE connection SET status = 'DEGRADED ' WHERE id = 'a'",
    "reason": "UPDATE connection SET status_reason = 'x' WHERE id = 'a'",
    "primary": "UPDATE connection SET primary_duplicate_id = 'a' WHERE id = 'a'",
    "duplicates": "UPDATE connection SET duplicate_ids = '[]' WHERE id = 'a'",
    "digest": "UPDATE connection SET digest = 'x' WHERE id = 'a'",
    "sequence of the mirror": "UPDATE connection SET sequence = 9 WHERE id = 'a'",
    "document": "UPDATE connection SET document = '{}' WHERE id = 'a'",
    "group's time": "UPDATE connection SET grouped_at = NULL WHERE id = 'a'",
    "account": "UPDATE connection SET account_id = 'x' WHERE id = 'c'",
    "tombstone": "UPDATE connection SET status = 'ACTIVE' WHERE id = 'c'",
    "row of the mirror": "DELETE FROM connection WHERE id = 'a'",
    "all of the mirror": "DELETE FROM connection",
    "first event": "DELETE FROM event WHERE connection_id = 'a' AND sequence = 1",
    "event in between": "DELETE FROM event WHERE connection_id = 'a' AND sequence = 3",
    "last event": "DELETE FROM event WHERE connection_id = 'a' AND sequence = 6",
    "all of the feed": "DELETE FROM event",
    "type of an event": "UPDATE event SET type = 'connection.strange' WHERE connection_id = 'a' AND sequence = 2",
    "id of an event": "UPDATE event SET id = 'x' WHERE connection_id = 'a' AND sequence = 2",
    "account of an event": "UPDATE event SET account_id = 'x' WHERE connection_id = 'a' AND sequence = 2",
    "observation of an event": "UPDATE event SET observation_id = 999 WHERE connection_id = 'a' AND sequence = 2",
    "another observation of an event": "UPDATE event SET observation_id = 1 WHERE connection_id = 'a' AND sequence = 4",
    "number of an event": "UPDATE event SET sequence = 99 WHERE connection_id = 'a' AND sequence = 2",
    "connection of an event": "UPDATE event SET connection_id = 'b' WHERE connection_id = 'a' AND sequence = 6",
    "data of an event": "UPDATE event SET data = '{}' WHERE connection_id = 'a' AND sequence = 2",
    "data that is none": "UPDATE event SET data = '[1]' WHERE connection_id = 'a' AND sequence = 2",
    "everything": "DELETE FROM event; DELETE FROM connection; UPDATE feed_counter SET value = 50",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_and_repaired(past: Past, damage: str) -> None:
    """An altered or lost row of mirror or feed is found, and a repair restores it."""
    eventful(past)
    before = past.all()
    change(past.database, *damage.split("; "))

    found, repaired, left = past.check(), past.repair(), past.check()

    assert found
    assert [each for each in repaired if not each.is_mended] == []
    assert repaired
    assert left == []
    assert without_times(before["mirror"]) == without_times(past.all()["mirror"])
    assert {row["id"] for row in before["event"]} == {row["id"] for row in past.all()["event"]}
    assert before["observation"] == past.all()["observation"]


def without_times(mirror: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mirror rows without the columns that do not follow from observations."""
    return [
        {name: value for name, value in row.items() if name not in {"checked_at", "reconcile_run_id"}} for row in mirror
    ]


def events(past: Past, connection_id: str = "a") -> list[EventRow]:
    with past.database.read() as session:
        mine = select(EventRow).where(EventRow.connection_id == connection_id)
        return list(session.exec(mine.order_by(col(EventRow.position))).all())


def test_a_lost_event_is_appended_and_marked(past: Past) -> None:
    """It gets a new position and its old sequence, and its cause names the rebuild; other events are unchanged."""
    eventful(past)
    before = events(past)
    end = past.rows(EventRow, col(EventRow.position))[-1]["position"]
    change(past.database, "DELETE FROM event WHERE connection_id = 'a' AND sequence = 3")

    past.repair()

    *others, appended = events(past)
    lost = before.pop(2)
    assert [(row.position, row.data) for row in others] == [(row.position, row.data) for row in before]
    assert (appended.position, appended.sequence, appended.id) == (end + 1, lost.sequence, lost.id)
    assert (appended.time, appended.observation_id) == (lost.time, lost.observation_id)
    cause = appended.data["cause"]
    assert (cause["trigger"], cause["observation_id"], "rebuilt_at" in cause) == ("operator", lost.observation_id, True)
    assert {**appended.data, "cause": lost.data["cause"]} == lost.data


def test_an_event_that_was_never_appended_gets_the_next_sequence(past: Past) -> None:
    """If the other events have taken its sequence they keep it: it gets the next one, in its column and its data."""
    eventful(past)
    change(
        past.database,
        "DELETE FROM event WHERE connection_id = 'c' AND sequence = 1",
        "UPDATE event SET sequence = 1 WHERE connection_id = 'c' AND sequence = 2",
        "UPDATE connection SET sequence = 1 WHERE id = 'c'",
    )
    (late,) = events(past, "c")
    change(past.database, *[inner(past.database, late, 1)])

    repaired, left = past.repair(), past.check()

    appended = [
        (row.sequence, row.data["connection"]["sequence"], row.data["current"]["status"]) for row in events(past, "c")
    ]
    assert appended == [(1, 1, "DELETED"), (2, 2, "ACTIVE")]
    assert all(each.is_mended for each in repaired)
    assert left == []


def inner(database: Database, event: EventRow, sequence: int) -> str:
    """Return the statement that changes the sequence inside an event's data."""
    if database.is_postgres:
        return (
            f"UPDATE event SET data = jsonb_set(data, '{{connection,sequence}}', '{sequence}') WHERE id = '{event.id}'"
        )
    return f"UPDATE event SET data = json_set(data, '$.connection.sequence', {sequence}) WHERE id = '{event.id}'"


NOT_REPAIRABLE = {
    "an observation": "DELETE FROM observation WHERE id = 2",
    "all observations": "DELETE FROM observation WHERE connection_id = 'a'",
    "the newest, which caused no event": "DELETE FROM observation WHERE id = 7",
    "what an observation saw": "UPDATE observation SET document = '{}' WHERE id = 2",
    "why it was made": "UPDATE observation SET trigger = 'x' WHERE id = 2",
}


@pytest.mark.parametrize("damage", NOT_REPAIRABLE.values(), ids=NOT_REPAIRABLE.keys())
def test_an_incomplete_history_repairs_nothing(past: Past, damage: str) -> None:
    """If observations are lost or damaged, a finding says so, and no row is written."""
    eventful(past)
    change(past.database, damage, "UPDATE connection SET institution_name = 'x' WHERE id = 'a'")
    before = past.all()

    found, repaired = past.check(), past.repair()

    assert found
    assert any(each.kind == "history" or each.field == "row" for each in found)
    assert [each for each in (*found, *repaired) if each.is_mendable or each.is_mended] == []
    assert before == past.all()


def test_an_unexpected_event_stays_and_is_reported(past: Past) -> None:
    """No event is removed from the feed; other differences are repaired."""
    eventful(past)
    copied = ", ".join(name for name in EventRow.model_fields if name not in {"id", "position", "sequence", "type"})
    change(
        past.database,
        f"INSERT INTO event (id, position, sequence, type, {copied}) "
        f"SELECT 'x', 900, 7, 'connection.status_reason_changed', {copied} FROM event "
        "WHERE connection_id = 'a' AND sequence = 6",
        "UPDATE connection SET status = 'x' WHERE id = 'a'",
    )

    past.repair()

    assert [(each.kind, each.field, each.event_id, each.is_mendable) for each in past.check()] == [
        ("event", "row", "x", False)
    ]


def test_a_read_in_progress_is_discarded_by_a_repair(past: Past) -> None:
    """It decided on damaged rows: the fencing token stops its commit, and the read is pending again at once."""
    eventful(past)
    lease = past.lease_read(Read("a", None))
    change(past.database, "UPDATE connection SET status = 'x', sequence = 2 WHERE id = 'a'")

    past.repair()

    reading = Reading(Snapshot.from_document(document("a", "ACTIVE")), BEGAN, BEGAN)
    with pytest.raises(LeaseLostError), past.database.write() as session:
        commit_read(past.database, session, lease, reading)
    with past.database.read() as session:
        request = session.get_one(ReadRequestRow, "a")
    assert (request.requested > request.completed, request.lease_token, request.leased_until) == (True, None, None)
    assert past.check() == []


def test_a_check_beside_workers_finds_no_difference(past: Past) -> None:
    """While connections change, repeated checks and repairs find no difference."""
    is_over = threading.Event()
    found: list[Any] = []

    def look(looking: Callable[[], list[Any]]) -> None:
        while not is_over.is_set():
            found.extend(looking())

    threads = [threading.Thread(target=look, args=(each,)) for each in (past.check, past.repair)]
    for thread in threads:
        thread.start()
    try:
        for number in range(READS_BESIDE):
            past.make_reads(*(Read(id_, document(id_, f"STATUS_{number}")) for id_ in ("a", "b", "c")))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()

    assert found == []
    assert past.check() == []
    assert len(past.rows(ObservationRow)) == 3 * READS_BESIDE


def test_repairs_beside_workers_lose_nothing(past: Past) -> None:
    """The mirror is damaged repeatedly while workers read: in the end it equals the projection."""
    is_over = threading.Event()

    def harm() -> None:
        while not is_over.is_set():
            change(past.database, "UPDATE connection SET institution_name = 'x' WHERE id = 'a'")
            past.repair()

    thread = threading.Thread(target=harm)
    thread.start()
    try:
        for number in range(READS_BESIDE):
            with suppress(LeaseLostError, AssertionError):  # the lease was revoked
                past.make_reads(Read("a", document("a", f"STATUS_{number}")))
    finally:
        is_over.set()
        thread.join()

    past.repair()
    assert past.check() == []


def test_progress_counts_observations(past: Past) -> None:
    """After each chunk the number of projected observations is reported."""
    eventful(past)
    counts: list[int] = []

    list(past.rebuild().check(counts.append))

    assert counts == [7, 9]
    assert len(past.rows(ConnectionRow)) == 3


def test_repairs_are_audited(past: Past) -> None:
    """One audit entry for the run, and one for each connection in the commit of its repair; none if nothing differs."""
    eventful(past)
    past.repair()
    before = past.rows(AuditRow)
    change(
        past.database, "UPDATE connection SET status = 'x' WHERE id IN ('a', 'c')", "DELETE FROM event WHERE id <> ''"
    )
    past.repair()
    past.repair()

    noted = [(row["who"], row["act"], row["connection_id"], row["details"]) for row in past.rows(AuditRow)]
    assert before == []
    assert noted == [
        ("alice", "rebuild.applied", None, {}),
        ("alice", "connection.mended", "a", {"mended": ["event row", "mirror status"]}),
        ("alice", "connection.mended", "b", {"mended": ["event row"]}),
        ("alice", "connection.mended", "c", {"mended": ["event row", "mirror status"]}),
    ]


def test_what_cannot_be_repaired_is_not_audited(past: Past) -> None:
    """A connection with lost observations gets no audit entry, since it is not changed."""
    eventful(past)
    change(past.database, "UPDATE event SET observation_id = 999 WHERE connection_id = 'c'")
    change(past.database, "UPDATE observation SET digest = 'x' WHERE connection_id = 'c'")
    change(past.database, "DELETE FROM observation WHERE connection_id = 'c'")

    past.repair()

    assert [row["act"] for row in past.rows(AuditRow)] == ["rebuild.applied"]
