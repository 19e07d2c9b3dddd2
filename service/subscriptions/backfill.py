"""Arrears: events of the past that are owed to a subscription, in the order of the feed."""

from typing import Any

from sqlalchemy import ColumnElement, insert, literal
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.tables import DeliveryRow, EventRow
from schemas.tables.column_types import Document, Key


def owe_past(
    database: Database,
    session: Session,
    subscription_id: str,
    *wanted: ColumnElement[bool],
    replay_id: str | None = None,
) -> int:
    """Owe events to a subscription, in one statement, behind all that it is owed already; return how many.

    The caller holds the feed's counter, so that nothing is owed in between, and raises the lanes.

    Args:
        database: The database.
        session: An open transaction that writes.
        subscription_id: The subscription.
        wanted: Which events.
        replay_id: The replay that they are sent again by.
    """
    columns: dict[str, Any] = {
        "subscription_id": literal(subscription_id),
        "connection_id": EventRow.connection_id,
        "position": EventRow.position,
        "event_id": EventRow.id,
        "type": EventRow.type,
        "created_at": database.now(),
        "attempts": literal(0),
        "outcomes": literal([], Document),
        "replay_id": literal(replay_id, Key),
    }
    owed = select(*columns.values()).where(*wanted).order_by(col(EventRow.position))
    owing = insert(DeliveryRow).from_select([*columns], owed).execution_options(preserve_rowcount=True)
    return session.connection().execute(owing).rowcount
