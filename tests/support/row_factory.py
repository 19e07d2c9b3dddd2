"""Factory of database rows for tests, with defaults as the program would write them."""

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
    """Commit rows, and set the feed counter to the last event among them."""
    positions = [row.position for row in rows if isinstance(row, tables.EventRow)]
    with database.write() as session:
        session.add_all(rows)
        if positions:
            feed = update(tables.FeedCounterRow).where(col(tables.FeedCounterRow.name) == "feed")
            session.exec(feed.values(value=max(positions)))


def connection(id_: str = "c1", **values: Any) -> tables.ConnectionRow:
    """Return a connection of the mirror."""
    defaults: dict[str, Any] = {
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
    return tables.ConnectionRow(id=id_, **{**defaults, **values})


def event(position: int, connection_id: str = "c1", **values: Any) -> tables.EventRow:
    """Return an event of the feed: the first read of a connection."""
    exposed = Connection.from_row(connection(connection_id)).model_dump(mode="json")
    defaults: dict[str, Any] = {
        "id": f"event-{position}",
        "sequence": position,
        "type": "connection.status_changed",
        "account_id": "acct",
        "time": TIME,
        "observation_id": position,
        "data": {
            "connection": exposed,
            "previous": None,
            "current": {"status": "ACTIVE", "status_reason": None},
            "cause": {"trigger": "webhook", "webhook_event_ids": ["e1"], "observation_id": position},
        },
    }
    return tables.EventRow(position=position, connection_id=connection_id, **{**defaults, **values})


def webhook(event_id: str | None = None, **values: Any) -> tables.WebhookRow:
    """Return a stored webhook that waits for a read."""
    defaults: dict[str, Any] = {
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
    return tables.WebhookRow(**{**defaults, **values})


def read_request(connection_id: str = "c1", **values: Any) -> tables.ReadRequestRow:
    """Return a read request without a pending read."""
    return tables.ReadRequestRow(connection_id=connection_id, **{"trigger": "webhook", "requested_at": TIME, **values})


def audit_entry(**values: Any) -> tables.AuditRow:
    """Return an audit entry."""
    return tables.AuditRow(**{"at": TIME, "who": "alice", "act": "connection.refreshed", "details": {}, **values})


def delivery(position: int, connection_id: str = "c1", **values: Any) -> tables.DeliveryRow:
    """Return a pending delivery of an event to a subscription."""
    defaults: dict[str, Any] = {
        "subscription_id": "s1",
        "event_id": f"event-{position}",
        "type": "connection.status_changed",
        "created_at": TIME,
        "outcomes": [],
    }
    return tables.DeliveryRow(position=position, connection_id=connection_id, **{**defaults, **values})
