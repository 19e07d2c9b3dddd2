from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlmodel import col

from runtime.database import Database
from schemas.tables import BaselineRow, ConnectionRow, EventRow, ObservationRow
from tests.support.random_rounds import rounds
from tests.support.scripted_meld import document
from tests.workers.history.random_past import BEGAN, IDS, Past, Read, random_reads

EXAMPLES = settings(max_examples=rounds(5), suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def past(database: Database) -> Past:
    """An empty history, on each database."""
    return Past(database)


def ids_of(past: Past) -> list[int]:
    return [row["id"] for row in past.rows(ObservationRow, col(ObservationRow.id))]


def statuses(past: Past, *made: str) -> None:
    past.make_reads(*(Read("a", document("a", status)) for status in made))


@EXAMPLES
@given(st.lists(random_reads(), min_size=2, max_size=4), st.sets(st.sampled_from(IDS), min_size=1))
def test_the_projection_is_exact_after_a_baseline(past: Past, made: list[list], ids: set[str]) -> None:
    """However often the oldest observations are removed meanwhile: the check finds no difference."""
    past.clear()
    for reads in made:
        past.make_reads(*reads)
        past.remove_observations(*ids)

    assert past.check() == []


@EXAMPLES
@given(random_reads(), random_reads())
def test_damage_after_a_baseline_is_repaired_exactly(past: Past, made: list[Read], later: list[Read]) -> None:
    """Damaged mirror rows are restored exactly, although the observations before the baseline are gone."""
    past.clear()
    past.make_reads(*made)
    past.remove_observations(*IDS)
    past.make_reads(*later)
    before = past.all()
    with past.database.write() as session:
        session.connection().execute(text("UPDATE connection SET status = 'x', grouped_at = NULL, customer_id = 'x'"))

    repaired = past.repair()

    assert all(each.is_mended for each in repaired)
    assert past.check() == []
    assert before["mirror"] == past.all()["mirror"]


def test_the_newest_observation_and_young_ones_are_kept(past: Past) -> None:
    """Only observations that ended before the time are removed, and never a connection's newest."""
    statuses(past, "A", "B", "C", "D")

    some = past.remove_observations("a", before=BEGAN + timedelta(minutes=2))
    left = ids_of(past)
    rest = past.remove_observations("a")

    assert (some, left) == (2, [3, 4])
    assert (rest, ids_of(past)) == (1, [4])
    assert past.remove_observations("a", "b") == 0
    (baseline,) = past.rows(BaselineRow)
    assert (baseline["observation_id"], baseline["mirror"]["status"], baseline["mirror"]["sequence"]) == (3, "C", 3)


def test_events_of_removed_observations_may_go_or_stay(past: Past) -> None:
    """The check ignores the events of removed observations, and requires those of the others."""
    statuses(past, "A", "B", "C")
    past.remove_observations("a")
    kept = past.check()
    with past.database.write() as session:
        session.connection().execute(text("DELETE FROM event WHERE sequence < 3"))
    removed = past.check()
    with past.database.write() as session:
        session.connection().execute(text("DELETE FROM event"))

    lost = past.check()
    past.repair()

    assert (kept, removed) == ([], [])
    assert [(each.kind, each.field, each.is_mendable) for each in lost] == [("event", "row", True)]
    (event,) = past.rows(EventRow)
    assert (event["sequence"], event["data"]["previous"]["status"]) == (3, "B")
    assert past.check() == []


@pytest.mark.parametrize(("dropped", "forgotten"), [(3, 3), (4, 2), (2, 3), (1, 1)])
def test_the_sequence_of_removed_events_is_known(past: Past, dropped: int, forgotten: int) -> None:
    """Whichever was removed first or further: the baseline's mirror has the sequence that it had."""
    statuses(past, "A", "B", "C", "D", "E")
    past.remove_events("a", before=BEGAN + timedelta(minutes=dropped))
    past.remove_observations("a", before=BEGAN + timedelta(minutes=forgotten))

    (baseline,) = past.rows(BaselineRow)
    assert (baseline["observation_id"], baseline["mirror"]["sequence"]) == (forgotten, forgotten)
    assert past.check() == []


def test_a_lost_mirror_is_restored_from_the_baseline(past: Past) -> None:
    """Baseline and kept observations are enough to restore the whole row."""
    past.make_reads(Read("a", document("a", duplicateConnectionIds=["b"], institutionName="Bank")), Read("a", None))
    before = past.all()["mirror"]
    past.remove_observations("a")
    with past.database.write() as session:
        session.connection().execute(text("DELETE FROM connection"))

    past.repair()

    assert before == past.rows(ConnectionRow)
    assert before[0]["institution_name"] == "Bank"
