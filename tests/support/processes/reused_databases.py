"""Databases that one test process uses again and again: emptied before each test instead of made for it.

Creating a database, and compiling every statement for a new engine, took most of a short test's time. So each test
process keeps one database of each kind, with one ``Database`` whose statements stay compiled.
"""

import shutil
from pathlib import Path

import psycopg
from psycopg import sql

from runtime.database import Database
from tests.support.processes import servers

SCHEMA = """
    SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
        (SELECT count(*) FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
            WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped),
        (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_namespace),
        (SELECT count(*) FROM pg_db_role_setting)
"""
"""What differs where a test has changed the schema."""

OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
USED = """
    SELECT relname FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
        AND pg_relation_size(oid) > 0
"""


class ReusedDatabases:
    """The databases of one test process.

    Args:
        run: The test run.
        worker: The name of this test process, unique within the run.
    """

    def __init__(self, run: servers.Run, worker: str) -> None:
        self._run = run
        self._worker = worker
        self._databases: dict[str, Database] = {}
        self._postgres: _PostgresDatabase | None = None

    def empty(self, kind: str) -> str:
        """Return the URL of this process's database of a kind, as it is after the migrations."""
        return self._empty_sqlite() if kind == "sqlite" else self._empty_postgres()

    def opened(self, url: str) -> Database:
        """Return the ``Database`` for a URL; ``close`` it after the test, it can be used again."""
        if url not in self._databases:
            self._databases[url] = Database(url)
        return self._databases[url]

    def close(self) -> None:
        """Close all connections. The servers end with the run."""
        for database in self._databases.values():
            database.close()

    def _empty_sqlite(self) -> str:
        path = self._run.directory / f"{self._worker}.db"
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        shutil.copy(servers.sqlite_template(self._run), path)
        return f"sqlite:///{path}"

    def _empty_postgres(self) -> str:
        if self._postgres is None or not self._postgres.empty():
            self._postgres = _PostgresDatabase(servers.recreate_postgres_database(self._run, f"reused_{self._worker}"))
        return self._postgres.url


class _PostgresDatabase:
    """A migrated database, and what it held when it was new."""

    def __init__(self, url: str) -> None:
        self.url = url
        with psycopg.connect(url, autocommit=True) as connection:
            self._schema = connection.execute(SCHEMA).fetchone()
            tables = [name for (name,) in connection.execute(USED).fetchall()]
            self._rows = {name: connection.execute(_select(name)).fetchall() for name in tables}

    def empty(self) -> bool:
        """Take the database back to how it was when it was new; return whether that was possible."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(OTHERS)
            if connection.execute(SCHEMA).fetchone() != self._schema:
                return False
            with connection.transaction():
                used = [sql.Identifier(name) for (name,) in connection.execute(USED).fetchall()]
                if used:
                    connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(sql.SQL(", ").join(used)))
                for table, rows in self._rows.items():
                    for row in rows:
                        values = sql.SQL(", ").join(sql.Placeholder() * len(row))
                        insert = sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier(table), values)
                        connection.execute(insert, row)
        return True


def _select(table: str) -> sql.Composed:
    return sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))
