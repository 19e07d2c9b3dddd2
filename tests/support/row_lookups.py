"""Row lookups for the workers' tests: the rows that a read has written; and rows moved into the past."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from runtime.database import Database
from schemas import tables
from schemas.api_resources import get_webhook_state
from schemas.events import Event
from schemas.tables import CircuitBreakerRow, ConnectionRow, ReadRequestRow, WebhookRow
from workers.refetch.recheck_delays import MAX_API_LAG_SECONDS


def all_rows(database: Database, table: type[Any]) -> Sequence[Any]:
    with database.read() as session:
        return session.exec(select(table)).all()


def read_request_of(database: Database, connection_id: str) -> ReadRequestRow:
    with database.read() as session:
        return session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == connection_id)).one()


def events_of(database: Database) -> list[Event]:
    with database.read() as session:
        rows = session.exec(select(tables.EventRow).order_by(col(tables.EventRow.position))).all()
        return [Event.from_row(row) for row in rows]


def mirror_of(database: Database, connection_id: str) -> ConnectionRow:
    with database.read() as session:
        return session.get_one(ConnectionRow, connection_id)


def make_due(database: Database) -> None:
    """Make read requests and circuit breakers due, and move webhooks and reads out of Meld's lag."""
    past = datetime.now(UTC) - timedelta(hours=1)
    passed = timedelta(seconds=MAX_API_LAG_SECONDS + 1)
    with database.write() as session:
        session.exec(update(ReadRequestRow).where(col(ReadRequestRow.due_at).is_not(None)).values(due_at=past))
        session.exec(
            update(CircuitBreakerRow).where(col(CircuitBreakerRow.paused_until).is_not(None)).values(paused_until=past)
        )
        for webhook in session.exec(select(WebhookRow)).all():
            webhook.received_at -= passed
        for connection in session.exec(select(ConnectionRow)).all():
            connection.checked_at -= passed


def webhook_states(database: Database) -> list[str]:
    with database.read() as session:
        return [get_webhook_state(row) for row in session.exec(select(WebhookRow).order_by(col(WebhookRow.id))).all()]
