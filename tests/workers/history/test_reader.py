import itertools
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from runtime.database import Database
from tests.support import query_plans
from tests.support.scripted_meld import document
from tests.workers.history.random_past import Past, Read
from workers.history.reader import (
    FETCH_ROWS,
    baselines_query,
    connections_between,
    events_query,
    find_chunk_end,
    mirrors_query,
    observations_query,
    only_connection,
    read_histories,
)


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    """A PostgreSQL with many rows."""
    database = Database(postgres_url)
    query_plans.fill_tables(database)
    yield database
    database.close()


def test_histories_are_read_by_index(postgres: Database) -> None:
    """A chunk of any table, and one connection, are read by an index: no query scans a table."""
    with postgres.read() as session:
        plans = [
            query_plans.explain(session, make(condition))
            for make in (baselines_query, mirrors_query, observations_query, events_query)
            for condition in (connections_between("c1", "c11"), only_connection("c1"))
        ]

    assert [plan for plan in plans if "Seq Scan" in plan or "Index" not in plan] == []


def test_the_end_of_a_chunk_is_found(database: Database) -> None:
    """A chunk ends with its last connection; the last chunk has no end."""
    past = Past(database)
    past.make_reads(*(Read(id_, document(id_)) for id_ in "abc"))

    with database.read() as session:
        ends = [find_chunk_end(session, after, 2) for after in ("", "b", "c")]

    assert ends == ["b", None, None]


def test_every_connection_of_any_table_has_a_history(database: Database) -> None:
    """Rows come by connection, in order, also if a table has no row of it or a history was not consumed."""
    past = Past(database)
    past.make_reads(*(Read(id_, document(id_, status)) for status in ("A", "B", "C") for id_ in "abc"))
    past.remove_observations("b")
    with database.write() as session:
        session.connection().execute(text("DELETE FROM connection WHERE id = 'a'"))
        session.connection().execute(text("DELETE FROM observation WHERE connection_id = 'c'"))

    with database.snapshot() as session:
        seen = [
            (
                history.connection_id,
                history.baseline is not None,
                history.stored_mirror is not None,
                [row.document["status"] for row in itertools.islice(history.observations, 1 if at else None)],
                [row.sequence for row in history.events],
            )
            for at, history in enumerate(read_histories(session, connections_between("", None)))
        ]

    assert seen == [
        ("a", False, False, ["A", "B", "C"], [1, 2, 3]),
        ("b", True, True, ["C"], [1, 2, 3]),
        ("c", False, True, [], [1, 2, 3]),
    ]


def test_long_histories_come_whole(database: Database) -> None:
    """All rows come in order, also if there are more than one fetch returns."""
    past = Past(database)
    past.make_reads(*(Read("a", document("a", f"S{number}")) for number in range(FETCH_ROWS + 7)))

    with database.snapshot() as session:
        (counts,) = [
            (sum(1 for _ in history.observations), [row.sequence for row in history.events])
            for history in read_histories(session, only_connection("a"))
        ]

    assert counts == (FETCH_ROWS + 7, list(range(1, FETCH_ROWS + 8)))
