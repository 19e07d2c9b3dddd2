import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel, select

from migrations import revisions, run
from runtime.database import Database
from runtime.errors import OutOfReachError, UsageError
from schemas.tables import METADATA, CircuitBreakerRow, FeedCounterRow
from tests.support.processes import servers

ROOT = Path(__file__).parent.parent.parent
# The complete catalogs, which are equal only if the tables are. SQLite stores the text of the statements, in which an
# added column has another place, so the query reads the properties of tables and indexes.
SQLITE_CATALOG = """
SELECT 'column', t.name, c.name, c.type, c."notnull", c.dflt_value, c.pk, t.sql LIKE '%AUTOINCREMENT%', '', ''
FROM sqlite_master AS t, pragma_table_xinfo(t.name) AS c
WHERE t.type = 'table' AND t.name NOT LIKE '%alembic%' AND t.name NOT LIKE 'sqlite_%'
UNION ALL
SELECT 'index', t.name, i.name, i."unique", i.origin, i.partial, c.seqno, c.name, c.desc || c.coll, s.sql
FROM sqlite_master AS t, pragma_index_list(t.name) AS i, pragma_index_xinfo(i.name) AS c
LEFT JOIN sqlite_master AS s ON s.name = i.name
WHERE t.type = 'table' AND t.name NOT LIKE '%alembic%' AND t.name NOT LIKE 'sqlite_%'
ORDER BY 1, 2, 3, 7
"""
POSTGRES_CATALOG = """
SELECT 'column', table_name, column_name, character_maximum_length::text, data_type, is_nullable, column_default,
       collation_name, is_identity
FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND table_name <> 'alembic_version'
UNION ALL
SELECT 'index', tablename, indexname, indexdef, '', '', '', '', ''
FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', '', '', ''
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
ORDER BY 1, 2, 3
"""


@contextmanager
def empty(kind: str, test_run: servers.Run, directory: Path) -> Iterator[Engine]:
    if kind == "sqlite":
        database = Database(f"sqlite:///{directory / 'empty.db'}")
        yield database.engine
        database.close()
    else:
        with servers.postgres_database(test_run, f"empty_{os.getpid()}", template="template0") as url:
            database = Database(url)
            yield database.engine
            database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, test_run: servers.Run, tmp_path: Path) -> Iterator[Engine]:
    """An empty database, of each kind."""
    with empty(request.param, test_run, tmp_path) as created:
        yield created


def catalog(engine: Engine) -> list[tuple[object, ...]]:
    statement = POSTGRES_CATALOG if engine.dialect.name == "postgresql" else SQLITE_CATALOG
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def upgrade_in_processes(engine: Engine, count: int, directory: Path) -> list[str]:
    """Run the upgrade in several concurrent processes, outside of the project's folder; return their output."""
    code = "import sys; from runtime.database import Database; from migrations import run; d = Database(sys.argv[1]);"
    code += "run.upgrade(d.engine); d.close(); print(run.__file__)"
    url = engine.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, url],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(count)
    ]
    return [process.communicate(timeout=60)[0].strip() for process in processes]


def test_upgrade_leaves_nothing_for_autogenerate(engine: Engine) -> None:
    """Alembic finds no difference between the upgraded database and the table classes."""
    run.upgrade(engine)

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_upgrade_creates_exactly_the_tables(engine: Engine) -> None:
    """The catalog equals that of tables created from their classes, including names and collations."""
    METADATA.create_all(engine)
    expected = catalog(engine)
    METADATA.drop_all(engine)

    run.upgrade(engine)

    assert expected == catalog(engine)


def test_upgrade_inserts_the_permanent_rows(engine: Engine) -> None:
    """The feed begins at 0, and the circuit breaker is closed."""
    run.upgrade(engine)

    with engine.connect() as connection:
        assert connection.execute(select(FeedCounterRow.name, FeedCounterRow.value)).all() == [("feed", 0)]
        assert connection.execute(
            select(CircuitBreakerRow.name, CircuitBreakerRow.failures, CircuitBreakerRow.paused_until)
        ).all() == [("meld", 0, None)]


def test_downgrade_removes_everything(engine: Engine) -> None:
    """A downgrade to the base leaves no table, and another upgrade is possible."""
    run.upgrade(engine)

    run.downgrade(engine, "base")

    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert revisions.get_current_revision(engine) is None
    run.upgrade(engine)
    assert revisions.is_current(engine)


def test_revisions_are_reported(engine: Engine) -> None:
    """A database has no revision before the first upgrade, and the newest one after it."""
    before = (revisions.get_current_revision(engine), revisions.is_current(engine))

    run.upgrade(engine)

    assert before == (None, False)
    assert (revisions.get_head_revision(), True) == (
        revisions.get_current_revision(engine),
        revisions.is_current(engine),
    )


def test_a_second_upgrade_changes_nothing(engine: Engine) -> None:
    """A second upgrade leaves rows and tables unchanged."""
    run.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE feed_counter SET value = 7"))

    run.upgrade(engine)

    with engine.connect() as connection:
        assert connection.execute(text("SELECT value FROM feed_counter")).scalar_one() == 7


def test_concurrent_upgrades_succeed(engine: Engine, tmp_path: Path) -> None:
    """Several processes that find an empty database at the same time all succeed, from any folder."""
    outputs = upgrade_in_processes(engine, 3, tmp_path)

    assert [run.__file__] * 3 == outputs
    assert revisions.is_current(engine)


def test_a_failed_upgrade_leaves_nothing_behind(engine: Engine) -> None:
    """An upgrade that fails at its last table rolls back all others, and reports the error."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE lease (name INTEGER)"))

    with pytest.raises(DBAPIError, match="already exists"):
        run.upgrade(engine)

    assert {"lease"} == set(inspect(engine).get_table_names()) - {"alembic_version"}
    assert revisions.get_current_revision(engine) is None


def test_a_newer_database_is_refused(engine: Engine) -> None:
    """The upgrade fails if the database has a newer revision, and the error names the revision."""
    run.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(UsageError, match="9999"):
        run.upgrade(engine)


def test_an_unavailable_database_is_out_of_reach(tmp_path: Path) -> None:
    """If the database is unavailable, every call raises ``OutOfReachError``."""
    port = servers.free_ports(1)[0]
    for url in (f"sqlite:///{tmp_path}/no/such/folder/meld.db", f"postgresql://me@127.0.0.1:{port}/meld"):
        database = Database(url)
        for call in (run.upgrade, revisions.get_current_revision, revisions.is_current):
            with pytest.raises(OutOfReachError):
                call(database.engine)
        database.close()


def test_every_table_is_in_the_metadata() -> None:
    """The metadata that migrations are compared with contains all table classes."""
    assert METADATA is SQLModel.metadata
