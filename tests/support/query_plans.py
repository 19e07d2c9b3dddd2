"""Query plans (EXPLAIN) on a database with enough rows to be planned as in production."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.dialects import postgresql
from sqlmodel import Session

from runtime.database import Database

ROW_COUNT = 40_000
"""Rows of each table."""

CONNECTION_ID = "CASE WHEN n % 400 = 0 THEN 'c1' ELSE 'c' || n % 2000 END"
"""The connection of a row: c1 has a hundred rows, two thousand others some twenty each."""

ROWS = {
    "webhook": {
        "event_id": "'w' || n",
        "connection_id": CONNECTION_ID,
        "signed_at": "CURRENT_TIMESTAMP",
        "received_at": "CURRENT_TIMESTAMP",
        "delivered_at": "CURRENT_TIMESTAMP",
        "url": "'u'",
        "headers": "'{}'",
        "body": "''",
        "deliveries": "1",
        "processed_at": "CURRENT_TIMESTAMP",
    },
    "observation": {
        "connection_id": CONNECTION_ID,
        "account_id": "'a'",
        "generation": "n",
        "trigger": "'clock'",
        "webhook_event_ids": "'[]'",
        "began_at": "CURRENT_TIMESTAMP",
        "ended_at": "CURRENT_TIMESTAMP",
        "found": "true",
        "digest": "'d'",
        "document": """'{"id": "c1", "status": "s"}'""",
    },
    "event": {
        "position": "n",
        "id": "'e' || n",
        "connection_id": CONNECTION_ID,
        "sequence": "n",
        "type": "'connection.status_changed'",
        "account_id": "'a'",
        "time": "CURRENT_TIMESTAMP",
        "observation_id": "n",
        "data": "'{}'",
    },
    "connection": {
        "id": "'c' || n",
        "account_id": "'a'",
        "status": "'s'",
        **dict.fromkeys(("duplicate_ids", "products", "optional_products", "regions"), "'[]'"),
        "service_provider_details": "'{}'",
        "observed_at": "CURRENT_TIMESTAMP",
        "checked_at": "CURRENT_TIMESTAMP",
        "sequence": "1",
        "digest": "'d'",
        "document": "'{}'",
    },
    "delivery": {
        "subscription_id": "'s' || n % 5",
        "connection_id": CONNECTION_ID,
        "position": "n",
        "event_id": "'e' || n",
        "type": "'connection.status_changed'",
        "created_at": "CURRENT_TIMESTAMP",
        "attempts": "1",
        "delivered_at": "CURRENT_TIMESTAMP",
        "outcomes": "'[]'",
    },
    "rejection": {
        "digest": "'d' || n",
        "reason": "'r'",
        "first_at": "CURRENT_TIMESTAMP",
        "received_at": "CURRENT_TIMESTAMP",
        "times": "1",
        "size": "0",
        "headers": "'{}'",
        "body": "''",
        "is_likely": "true",
    },
    "audit": {"at": "CURRENT_TIMESTAMP", "who": "'w'", "act": "'a'", "connection_id": CONNECTION_ID, "details": "'{}'"},
    "read_request": {
        "connection_id": "'c' || n",
        "trigger": "'webhook'",
        "requested_at": "CURRENT_TIMESTAMP",
        **dict.fromkeys(("requested", "completed", "attempts", "depth", "rechecks"), "0"),
    },
    "baseline": {"connection_id": "'c' || n", "observation_id": "n", "ended_at": "CURRENT_TIMESTAMP", "mirror": "'{}'"},
}
"""The columns of each table, with the SQL expression that computes the value from the row number."""


NUMBERS = f"SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROW_COUNT}"


def fill_tables(database: Database) -> None:
    """Fill the tables, and update the planner's statistics."""
    with database.write() as session:
        for table, columns in ROWS.items():
            names, values = ", ".join(columns), ", ".join(columns.values())
            rows = f"WITH RECURSIVE numbers (n) AS ({NUMBERS}) SELECT {values} FROM numbers"
            session.connection().execute(text(f"INSERT INTO {table} ({names}) {rows}"))
        session.connection().execute(text("ANALYZE"))


def explain(session: Session, statement: Any) -> str:
    """Return PostgreSQL's plan of a statement."""
    compiled = statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    return "\n".join(row[0] for row in session.connection().execute(text(f"EXPLAIN {compiled}")))


@contextmanager
def record_statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Record all statements with their parameters that are sent to the database while the block runs."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        sent.append((statement, parameters))

    with database.read() as session:
        engines = {session.get_bind(), database.engine}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


def explain_all(database: Database, sent: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the database's plan of each recorded statement."""
    prefix, column = ("EXPLAIN", 0) if database.is_postgres else ("EXPLAIN QUERY PLAN", 3)
    with database.read() as session:
        answers = [session.connection().exec_driver_sql(f"{prefix} {each}", bound).all() for each, bound in sent]
    return ["\n".join(row[column] for row in answer) for answer in answers]
