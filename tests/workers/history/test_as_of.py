from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings

from runtime.database import Database
from runtime.errors import UsageError
from schemas.tables import ConnectionRow
from tests.support.scripted_meld import document
from tests.support.soak import rounds
from tests.workers.history.random_past import BEGAN, IDS, Past, Read, random_reads
from workers.history.as_of import mirror_as_of
from workers.history.projection import UNPROJECTED_COLUMNS


@pytest.fixture
def past(database: Database) -> Past:
    """A past that nothing has happened in yet, on each database."""
    return Past(database)


def recalled(past: Past, id_: str, minutes: float) -> ConnectionRow:
    with past.database.snapshot() as session:
        return mirror_as_of(session, id_, BEGAN + timedelta(minutes=minutes))


@settings(max_examples=rounds(8), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random_reads())
def test_every_moment_is_recalled_as_it_was(past: Past, made: list[Read]) -> None:
    """At the time of each read the row is what the mirror was then, whatever came later."""
    past.clear()
    start = (past.tick() - BEGAN).total_seconds() / 60 + 1
    seen = []
    for read in made:
        past.make_reads(read)
        seen.append({row["id"]: row for row in past.rows(ConnectionRow)})

    for number, rows in enumerate(seen):
        for id_ in IDS:
            if id_ in rows:
                row = recalled(past, id_, start + number + 0.5).model_dump(exclude=set(UNPROJECTED_COLUMNS))
                assert row == {name: value for name, value in rows[id_].items() if name not in UNPROJECTED_COLUMNS}


def test_what_was_not_known_or_is_forgotten_is_said(past: Past) -> None:
    """Before the first read, before the baseline, and of nobody at all there is nothing to tell, and it is said so."""
    past.make_reads(*(Read("a", document("a", status)) for status in "ABC"))

    with pytest.raises(UsageError, match="was not known at 2026-01-02T03:03:05Z"):
        recalled(past, "a", -1)
    with pytest.raises(UsageError, match="No connection 'nobody' is known"):
        recalled(past, "nobody", 1)
    past.remove_observations("a")
    with pytest.raises(UsageError, match="The history before 2026-01-02T03:05:06Z is no longer kept"):
        recalled(past, "a", 0.5)

    assert [recalled(past, "a", minutes).status for minutes in (1.5, 2.5, 60)] == ["B", "C", "C"]
