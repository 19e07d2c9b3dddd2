from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlmodel import col, select

from runtime.clock import utcnow
from runtime.database import Database
from runtime.settings import Settings
from schemas.tables import ConnectionRow, DeliveryRow, EventBaselineRow, EventRow, ObservationRow
from tests.support import row_factory
from tests.support.random_rounds import rounds
from tests.support.scripted_meld import document
from tests.workers.history.random_past import BEGAN, IDS, Past, Read, random_reads
from workers.retention.cutoffs import compute_cutoffs
from workers.retention.events import MAX_EVENTS, count_removable_events

EXAMPLES = settings(max_examples=rounds(5), suppress_health_check=[HealthCheck.function_scoped_fixture])
CUTS = st.one_of(st.none(), st.integers(0, 30))


@pytest.fixture
def past(database: Database) -> Past:
    """An empty history, on each database."""
    return Past(database)


def statuses(past: Past, *made: str) -> None:
    past.make_reads(*(Read("a", document("a", status)) for status in made))


def sequences(past: Past) -> list[int]:
    return [row["sequence"] for row in past.rows(EventRow, col(EventRow.position))]


def add_delivery(past: Past, position: int, **steps: object) -> None:
    """Insert a delivery of a past event."""
    with past.database.read() as session:
        event = session.exec(select(EventRow).where(EventRow.position == position)).one()
    usual = {"subscription_id": "s1", "connection_id": "a", "position": position, "type": event.type}
    row_factory.store(past.database, DeliveryRow(**usual, event_id=event.id, created_at=utcnow(), outcomes=[], **steps))


def cut(start: datetime, minutes: int | None) -> datetime | None:
    return None if minutes is None else start + timedelta(minutes=minutes, seconds=30)


@EXAMPLES
@given(
    st.lists(st.tuples(random_reads(), CUTS, CUTS), min_size=2, max_size=4), st.sets(st.sampled_from(IDS), min_size=1)
)
def test_the_projection_is_exact_without_the_oldest_events(past: Past, made: list, ids: set[str]) -> None:
    """Whichever old events and observations are removed: the check finds no difference, the others are kept."""
    past.clear()
    start = past.tick()
    for reads, events, observations in made:
        past.make_reads(*reads)
        before = past.all()
        past.remove_events(*ids, before=cut(start, events))
        past.remove_observations(*ids, before=cut(start, observations))

        assert past.check() == []
        assert before["mirror"] == past.all()["mirror"]
        assert all(event in before["event"] for event in past.all()["event"])


@EXAMPLES
@given(st.tuples(random_reads(), random_reads()), CUTS, CUTS, st.data())
def test_damage_is_repaired_without_the_oldest_events(
    past: Past, made: tuple[list[Read], ...], events: int | None, observations: int | None, data: st.DataObject
) -> None:
    """A lost mirror and a lost event are restored as they were; removed events are not appended again."""
    past.clear()
    start = past.tick()
    past.make_reads(*made[0])
    past.remove_events(*IDS, before=cut(start, events))
    past.make_reads(*made[1])
    past.remove_observations(*IDS, before=cut(start, observations))
    before = past.all()
    stored = [row["id"] for row in before["event"]]
    lost = data.draw(st.sampled_from(stored)) if stored else ""
    covered = past.check()
    with past.database.write() as session:
        session.connection().execute(text("DELETE FROM connection"))
        session.connection().execute(text("DELETE FROM event WHERE id = :lost"), {"lost": lost})

    repaired = past.repair()

    assert covered == []
    assert all(each.is_mended for each in repaired)
    assert past.check() == []
    assert facts(before["mirror"]) == facts(past.all()["mirror"])
    assert set(stored) - {lost} <= {row["id"] for row in past.all()["event"]} <= set(stored)


def facts(mirror: list[dict]) -> list[dict]:
    return [{name: row[name] for name in row if name not in {"checked_at", "reconcile_run_id"}} for row in mirror]


def test_removal_moves_the_event_baseline(past: Past) -> None:
    """The event baseline has the last removed observation and sequence; it is written only if events are removed."""
    statuses(past, "A", "B", "C", "D")

    some = past.remove_events("a", before=BEGAN + timedelta(minutes=2))
    left = sequences(past)
    none = past.remove_events("a", "b", before=BEGAN)
    rest = past.remove_events("a")
    statuses(past, "E")

    assert (some, left, none, rest) == (2, [3, 4], 0, 2)
    assert past.rows(EventBaselineRow) == [{"connection_id": "a", "observation_id": 4, "sequence": 4}]
    assert sequences(past) == [5]
    assert past.rows(ConnectionRow)[0]["sequence"] == 5
    assert len(past.rows(ObservationRow)) == 5


def test_a_pending_event_is_kept_with_all_later_ones(past: Past) -> None:
    """An event with a pending or dead delivery is kept, and with it the later ones of its connection."""
    statuses(past, "A", "B", "C", "D")
    past.make_reads(Read("b", document("b")))
    add_delivery(past, 2, dead_at=utcnow())

    kept = past.remove_events("a", "b")
    left = sequences(past)
    with past.database.write() as session:
        session.connection().execute(text("UPDATE delivery SET dead_at = NULL, delivered_at = created_at"))

    assert (kept, left) == (2, [2, 3, 4])
    assert (past.remove_events("a"), sequences(past)) == (3, [])


def test_an_old_dead_delivery_keeps_no_event(past: Past) -> None:
    """A dead delivery older than failures are kept does not keep its event."""
    statuses(past, "A", "B")
    add_delivery(past, 1, dead_at=utcnow() - timedelta(days=181))

    assert past.remove_events("a") == 2


def test_the_age_of_a_rebuilt_event_counts_from_the_rebuild(past: Past) -> None:
    """The age of an event that a rebuild appended counts from the rebuild, not from its read."""
    statuses(past, "A", "B")
    with past.database.write() as session:
        session.connection().execute(text("DELETE FROM event WHERE sequence = 1"))
    past.repair()

    assert sequences(past) == [2, 1]
    assert past.remove_events("a") == 0
    assert past.remove_events("a", before=utcnow() + timedelta(days=1)) == 2


def test_events_of_one_read_are_removed_together(past: Past) -> None:
    """If one of them has a pending delivery, the other is kept, too."""
    past.make_reads(Read("a", document("a")), Read("a", document("a", "B", activeDuplicateConnectionId="b")))
    add_delivery(past, 3)

    assert [row["observation_id"] for row in past.rows(EventRow, col(EventRow.position))] == [1, 2, 2]
    assert (past.remove_events("a"), sequences(past)) == (1, [2, 3])


def test_a_long_history_is_removed_in_parts(past: Past) -> None:
    """No commit removes more than ``MAX_EVENTS``, and all together remove as many as were counted before."""
    statuses(past, *(f"STATUS_{number}" for number in range(MAX_EVENTS + 3)))
    cutoffs = compute_cutoffs(Settings(retain_events_days=0), utcnow())
    with past.database.read() as session:
        counted = count_removable_events(session, "a", cutoffs)

    parts = [past.remove_events("a"), past.remove_events("a"), past.remove_events("a")]

    assert counted == sum(parts) == MAX_EVENTS + 3
    assert max(parts) <= MAX_EVENTS
    assert past.check() == []
