"""A PostgreSQL with so many rows that it plans as in production, and the plans that it makes."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlmodel import Session

from runtime.database import Database

COUNT = 40_000
"""Rows of each table."""

OWNER = "CASE WHEN n % 400 = 0 THEN 'c1' ELSE 'c' || n % 2000 END"
"""Whose they are: c1 has a hundred, two thousand others some twenty each."""

ROWS = {
    "webhook": {
        "event_id": "'w' || n",
        "connection_id": OWNER,
        "signed_at": "now()",
        "received_at": "now()",
        "delivered_at": "now()",
        "url": "'u'",
        "headers": "'{}'",
        "body": "''",
        "deliveries": "1",
        "processed_at": "now()",
    },
    "observation": {
        "connection_id": OWNER,
        "account_id": "'a'",
        "generation": "n",
        "trigger": "'clock'",
        "webhook_event_ids": "'[]'",
        "began_at": "now()",
        "ended_at": "now()",
        "found": "true",
        "digest": "'d'",
        "document": "'{}'",
    },
    "event": {
        "position": "n",
        "id": "'e' || n",
        "connection_id": OWNER,
        "sequence": "n",
        "type": "'t'",
        "account_id": "'a'",
        "time": "now()",
        "observation_id": "n",
        "data": "'{}'",
    },
    "delivery": {
        "subscription_id": "'s' || n % 3",
        "connection_id": OWNER,
        "position": "n",
        "event_id": "'e' || n",
        "type": "'t'",
        "created_at": "now()",
        "attempts": "1",
        "delivered_at": "now()",
        "outcomes": "'[]'",
    },
    "job": {
        "connection_id": "'c' || n",
        **dict.fromkeys(("requested", "completed", "attempts", "depth", "rechecks"), "0"),
        "trigger": "'clock'",
        "raised_at": "now()",
    },
    "rejection": {
        "digest": "'d' || n",
        "reason": "'r'",
        "first_at": "now()",
        "received_at": "now()",
        "times": "1",
        "size": "0",
        "headers": "'{}'",
        "body": "''",
    },
    "connection": {
        "id": "'c' || n",
        "account_id": "'a'",
        "status": "'s'",
        **dict.fromkeys(("duplicate_ids", "products", "optional_products", "regions"), "'[]'"),
        "service_provider_details": "'{}'",
        "observed_at": "now()",
        "checked_at": "now()",
        "sequence": "1",
        "digest": "'d'",
        "document": "'{}'",
    },
    "baseline": {"connection_id": "'c' || n", "observation_id": "n", "ended_at": "now()", "mirror": "'{}'"},
}
"""The columns of each table, each with what makes its value of a number."""


def fill(database: Database) -> None:
    """Fill the tables, and have the server count them."""
    with database.write() as session:
        for table, columns in ROWS.items():
            names, values = ", ".join(columns), ", ".join(columns.values())
            rows = f"SELECT {values} FROM generate_series(1, {COUNT}) AS n"
            session.connection().execute(text(f"INSERT INTO {table} ({names}) {rows}"))
        session.connection().execute(text("ANALYZE"))


def plan_of(session: Session, statement: Any) -> str:
    """Return how the server would run a statement."""
    compiled = statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    return "\n".join(row[0] for row in session.connection().execute(text(f"EXPLAIN {compiled}")))
