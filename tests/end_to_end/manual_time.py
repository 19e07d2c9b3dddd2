"""Manual time: databases whose current time is a clock that the test moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import text
from sqlmodel import SQLModel

from runtime.database import Database
from runtime.queues import circuit_breaker
from schemas.tables import CircuitBreakerRow, FeedCounterRow


class Clock:
    """A clock that stands still until the test moves it; it also sets the time of a PostgreSQL database."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 12, tzinfo=UTC)
        self._database: Database | None = None

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def move_with(self, database: Database) -> None:
        """Make the database's time follow this clock."""
        self._database = database
        self.move(self.now)

    def move(self, to: datetime) -> None:
        """Move forward to a time; never move back."""
        self.now = max(self.now, to)
        if self._database is not None:
            with self._database.engine.begin() as connection:
                connection.execute(text("UPDATE history.present SET at = :at"), {"at": self.now})


SHADOW = """
CREATE SCHEMA history;
CREATE TABLE history.present (at timestamptz NOT NULL);
INSERT INTO history.present VALUES (now());
CREATE FUNCTION history.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM history.present';
CREATE FUNCTION history.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
    AS 'SELECT at FROM history.present';
"""


@contextmanager
def timeless(url: str) -> Iterator[tuple[Database, Clock]]:
    """Open a database whose time is a manual clock. On PostgreSQL a second ``now()`` shadows the built-in one."""
    clock = Clock()
    if url.startswith("sqlite"):
        database = Database(url, clock=clock)
    else:
        first = Database(url)
        with first.engine.begin() as connection:
            connection.execute(text(SHADOW))
            name = connection.execute(text("SELECT current_database()")).scalar_one()
            connection.execute(text(f'ALTER DATABASE "{name}" SET search_path = history, public, pg_catalog'))
        first.close()
        database = Database(url)
        clock.move_with(database)
    yield database, clock
    database.close()


def empty(database: Database) -> None:
    """Empty every table, close the circuit breaker, and reset the feed position."""
    kept = {FeedCounterRow.__tablename__, CircuitBreakerRow.__tablename__}
    with database.write() as session:
        for table in SQLModel.metadata.sorted_tables:
            if table.name not in kept:
                session.connection().execute(table.delete())
        session.connection().execute(text("UPDATE feed_counter SET value = 0"))
        circuit_breaker.close_circuit(session)
