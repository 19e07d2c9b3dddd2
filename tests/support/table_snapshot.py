"""Assertion that a block writes nothing to the database, not even unchanged values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text

from runtime.database import Database
from schemas.tables import METADATA


def read_all_rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables, on PostgreSQL with the transaction and the place of each row."""
    more = ", xmin::text, ctid::text" if database.is_postgres else ", rowid"
    found = {}
    with database.snapshot() as session:
        for name in METADATA.tables:
            rows = session.connection().execute(text(f'SELECT *{more} FROM "{name}" ORDER BY 1, 2')).all()
            found[name] = [tuple(map(repr, row)) for row in rows]
    return found


@contextmanager
def assert_unchanged(database: Database) -> Iterator[None]:
    """Fail if the block writes a row, or if on SQLite any other connection commits."""
    before = read_all_rows(database)
    with database.engine.connect() as connection:
        # End the transaction at once, so that others can write. The number changes when another connection commits.
        version = None if database.is_postgres else connection.exec_driver_sql("PRAGMA data_version").scalar_one()
        connection.rollback()
        yield
        after = None if database.is_postgres else connection.exec_driver_sql("PRAGMA data_version").scalar_one()
        connection.rollback()

    assert after == version
    assert read_all_rows(database) == before
