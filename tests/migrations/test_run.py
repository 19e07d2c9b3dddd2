import os
import shutil
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

from migrations import run
from runtime.database import Database
from runtime.errors import OutOfReachError, UsageError
from schemas.tables import METADATA, CircuitBreakerRow, FeedCounterRow
from tests.support import servers

ROOT = Path(__file__).parent.parent.parent
# All that the databases know of their tables, in words that are equal only where the tables are. SQLite keeps the
# words of the statements, in which a column that was added later stands elsewhere: so it is asked for the facts.
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
    with empty(request.param, test_run, tmp_path) as made:
        yield made


def catalog(engine: Engine) -> list[tuple[object, ...]]:
    statement = POSTGRES_CATALOG if engine.dialect.name == "postgresql" else SQLITE_CATALOG
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def in_processes(engine: Engine, count: int, directory: Path, path: Path = ROOT) -> list[str]:
    """Upgrade from several processes at once, far from the project's folder; return what they complain of."""
    code = "import sys; from runtime.database import Database; from migrations import run; d = Database(sys.argv[1]);"
    code += "run.upgrade(d.engine); d.close(); print(run.__file__)"
    url = engine.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, url],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(count)
    ]
    return [process.communicate(timeout=60)[0].strip() for process in processes]


def test_upgrade_makes_what_the_tables_say(engine: Engine) -> None:
    """Nothing is left for autogenerate to find after an upgrade."""
    run.upgrade(engine)

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_upgrade_makes_exactly_what_the_tables_say(engine: Engine) -> None:
    """The catalog after an upgrade is word for word that of tables made from their classes: names, collations, all."""
    METADATA.create_all(engine)
    expected = catalog(engine)
    METADATA.drop_all(engine)

    run.upgrade(engine)

    assert expected == catalog(engine)


def test_upgrade_makes_the_rows_that_are_always_there(engine: Engine) -> None:
    """The feed begins at 0 and the gate before Meld is open."""
    run.upgrade(engine)

    with engine.connect() as connection:
        assert connection.execute(select(FeedCounterRow.name, FeedCounterRow.value)).all() == [("feed", 0)]
        assert connection.execute(
            select(CircuitBreakerRow.name, CircuitBreakerRow.failures, CircuitBreakerRow.paused_until)
        ).all() == [("meld", 0, None)]


def test_downgrade_takes_everything_away(engine: Engine) -> None:
    """A downgrade to the base leaves no table, and the way up is open again."""
    run.upgrade(engine)

    run.downgrade(engine, "base")

    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert run.get_current_revision(engine) is None
    run.upgrade(engine)
    assert run.is_current(engine)


def test_revisions_are_told(engine: Engine) -> None:
    """A database has no revision before the first upgrade, and the newest one after it."""
    before = (run.get_current_revision(engine), run.is_current(engine))

    run.upgrade(engine)

    assert before == (None, False)
    assert (run.get_head_revision(), True) == (run.get_current_revision(engine), run.is_current(engine))


def test_upgrade_again_changes_nothing(engine: Engine) -> None:
    """A second upgrade leaves rows and tables as they are."""
    run.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE feed_counter SET value = 7"))

    run.upgrade(engine)

    with engine.connect() as connection:
        assert connection.execute(text("SELECT value FROM feed_counter")).scalar_one() == 7


def test_processes_may_upgrade_at_once(engine: Engine, tmp_path: Path) -> None:
    """Several processes that find an empty database at the same time all succeed, from any folder."""
    complaints = in_processes(engine, 3, tmp_path)

    assert [run.__file__] * 3 == complaints
    assert run.is_current(engine)


def test_a_failed_upgrade_leaves_nothing_behind(engine: Engine) -> None:
    """An upgrade that fails at its last table takes all others back, and says what was wrong."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE lease (name INTEGER)"))

    with pytest.raises(DBAPIError, match="already exists"):
        run.upgrade(engine)

    assert {"lease"} == set(inspect(engine).get_table_names()) - {"alembic_version"}
    assert run.get_current_revision(engine) is None


def test_a_newer_database_is_refused(engine: Engine) -> None:
    """A database of a newer version is left alone, by a message that says so."""
    run.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(UsageError, match="9999"):
        run.upgrade(engine)


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    """Where no database answers, every call says that it is out of reach."""
    port = servers.free_ports(1)[0]
    for url in (f"sqlite:///{tmp_path}/no/such/folder/meld.db", f"postgresql://me@127.0.0.1:{port}/meld"):
        database = Database(url)
        for call in (run.upgrade, run.get_current_revision, run.is_current):
            with pytest.raises(OutOfReachError):
                call(database.engine)
        database.close()


def test_a_wheel_brings_its_migrations(tmp_path: Path) -> None:
    """The installed distribution migrates without the repository beside it."""
    source, target = tmp_path / "source", tmp_path / "100% target"
    skipped = shutil.ignore_patterns(".*", "*.egg-info", "build", "tests", "__pycache__", "*.db")
    shutil.copytree(ROOT, source, ignore=skipped)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*install, "--no-compile", "--target", target, source], check=True)
    shutil.rmtree(source)
    database = Database(f"sqlite:///{tmp_path / 'empty.db'}")

    answers = in_processes(database.engine, 1, tmp_path, target)

    assert [str(target / "migrations" / "run.py")] == answers
    assert run.is_current(database.engine)
    database.close()


def test_every_table_is_in_the_metadata() -> None:
    """The migrations are compared with all tables there are."""
    assert METADATA is SQLModel.metadata
