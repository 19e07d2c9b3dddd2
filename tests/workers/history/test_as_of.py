from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings

from runtime.database import Database
from runtime.errors import UsageError
from schemas.tables import ConnectionRow
from tests.support.random_rounds import rounds
from tests.support.scripted_meld import document
from tests.workers.history.random_past import BEGAN, IDS, Past, Read, random_reads
from workers.history.as_of import mirror_as_of
from workers.history.projection import UNPROJECTED_COLUMNS


@pytest.fixture
def past(database: Database) -> Past:
    """An empty history, on each database."""
    return Past(database)


def mirror_at(past: Past, id_: str, minutes: float) -> ConnectionRow:
    with past.database.snapshot() as session:
        return mirror_as_of(session, id_, BEGAN + timedelta(minutes=minutes))


@settings(max_examples=rounds(5), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random_reads())
def test_every_moment_is_projected_as_it_was(past: Past, made: list[Read]) -> None:
    """As of the time of each read the row equals the mirror at that time, whatever was read later."""
    past.clear()
    start = (past.tick() - BEGAN).total_seconds() / 60 + 1
    seen = []
    for read in made:
        past.make_reads(read)
        seen.append({row["id"]: row for row in past.rows(ConnectionRow)})

    for number, rows in enumerate(seen):
        for id_ in IDS:
            if id_ in rows:
                row = mirror_at(past, id_, start + number + 0.5).model_dump(exclude=set(UNPROJECTED_COLUMNS))
                assert row == {name: value for name, value in rows[id_].items() if name not in UNPROJECTED_COLUMNS}


def test_unknown_and_removed_times_are_errors(past: Past) -> None:
    """Before the first read, before the baseline, and for an unknown connection there is an error."""
    past.make_reads(*(Read("a", document("a", status)) for status in "ABC"))

    with pytest.raises(UsageError, match="was not known at 2026-01-02T03:03:05Z"):
        mirror_at(past, "a", -1)
    with pytest.raises(UsageError, match="No connection 'nobody' is known"):
        mirror_at(past, "nobody", 1)
    past.remove_observations("a")
    with pytest.raises(UsageError, match="The history before 2026-01-02T03:05:06Z is no longer kept"):
        mirror_at(past, "a", 0.5)

    assert [mirror_at(past, "a", minutes).status for minutes in (1.5, 2.5, 60)] == ["B", "C", "C"]
