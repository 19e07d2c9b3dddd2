"""Whether anybody has written to a database, be it what was there before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text

from runtime.database import Database
from schemas.tables import METADATA


def rows_of(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables, byte by byte; on PostgreSQL also which transaction has written each, and where."""
    more = ", xmin::text, ctid::text" if database.is_postgres else ", rowid"
    found = {}
    with database.snapshot() as session:
        for name in METADATA.tables:
            rows = session.connection().execute(text(f'SELECT *{more} FROM "{name}" ORDER BY 1, 2')).all()
            found[name] = [tuple(map(repr, row)) for row in rows]
    return found


@contextmanager
def untouched(database: Database) -> Iterator[None]:
    """See that nothing is written while the block runs: not a row, and on SQLite not even the same once more."""
    before = rows_of(database)
    with database.engine.connect() as connection:
        # Ended at once, so that nobody is kept out; the number changes when another connection commits.
        version = None if database.is_postgres else connection.exec_driver_sql("PRAGMA data_version").scalar_one()
        connection.rollback()
        yield
        after = None if database.is_postgres else connection.exec_driver_sql("PRAGMA data_version").scalar_one()
        connection.rollback()

    assert after == version
    assert rows_of(database) == before
