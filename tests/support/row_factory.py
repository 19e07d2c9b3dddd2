"""Rows for tests: each as the program would have written it, with what a test cares for."""

import itertools
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import update
from sqlmodel import SQLModel, col

from runtime.database import Database
from schemas import tables
from schemas.api_resources import Connection

TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
_NUMBERS = itertools.count(1)


def store(database: Database, *rows: SQLModel) -> None:
    """Commit rows, and move the feed's end to the last event among them."""
    positions = [row.position for row in rows if isinstance(row, tables.EventRow)]
    with database.write() as session:
        session.add_all(rows)
        if positions:
            feed = update(tables.FeedCounterRow).where(col(tables.FeedCounterRow.name) == "feed")
            session.exec(feed.values(value=max(positions)))


def connection(id_: str = "c1", **values: Any) -> tables.ConnectionRow:
    """Return a connection of the mirror."""
    usual: dict[str, Any] = {
        "account_id": "acct",
        "status": "ACTIVE",
        "duplicate_ids": [],
        "products": ["BALANCES"],
        "optional_products": [],
        "regions": ["US"],
        "service_provider_details": {},
        "observed_at": TIME,
        "checked_at": TIME,
        "digest": "digest",
        "document": {"id": id_, "marker": "document-of-meld"},
    }
    return tables.ConnectionRow(id=id_, **{**usual, **values})


def event(position: int, connection_id: str = "c1", **values: Any) -> tables.EventRow:
    """Return an event of the feed: a connection that was seen for the first time."""
    shown = Connection.from_row(connection(connection_id)).model_dump(mode="json")
    usual: dict[str, Any] = {
        "id": f"event-{position}",
        "sequence": position,
        "type": "connection.status_changed",
        "account_id": "acct",
        "time": TIME,
        "observation_id": position,
        "data": {
            "connection": shown,
            "previous": None,
            "current": {"status": "ACTIVE", "status_reason": None},
            "cause": {"trigger": "webhook", "webhook_event_ids": ["e1"], "observation_id": position},
        },
    }
    return tables.EventRow(position=position, connection_id=connection_id, **{**usual, **values})


def webhook(event_id: str | None = None, **values: Any) -> tables.WebhookRow:
    """Return a stored webhook that waits for a read."""
    usual: dict[str, Any] = {
        "event_id": event_id or f"webhook-{next(_NUMBERS)}",
        "type": "BANK_LINKING_CONNECTION_STATUS_CHANGE",
        "account_id": "acct",
        "connection_id": "c1",
        "signed_at": TIME,
        "received_at": TIME,
        "delivered_at": TIME,
        "url": "https://example.test/webhooks/meld",
        "headers": {"meld-signature": "marker-of-signature"},
        "body": b"marker-of-body",
    }
    return tables.WebhookRow(**{**usual, **values})


def job(connection_id: str = "c1", **values: Any) -> tables.ReadRequestRow:
    """Return a job that is owed nothing."""
    return tables.ReadRequestRow(connection_id=connection_id, **{"trigger": "webhook", "requested_at": TIME, **values})


def act(**values: Any) -> tables.AuditRow:
    """Return an act of an operator's."""
    return tables.AuditRow(**{"at": TIME, "who": "alice", "act": "connection.refreshed", "details": {}, **values})


def delivery(position: int, connection_id: str = "c1", **values: Any) -> tables.DeliveryRow:
    """Return what is owed to a subscription of an event."""
    usual: dict[str, Any] = {
        "subscription_id": "s1",
        "event_id": f"event-{position}",
        "type": "connection.status_changed",
        "created_at": TIME,
        "outcomes": [],
    }
    return tables.DeliveryRow(position=position, connection_id=connection_id, **{**usual, **values})
