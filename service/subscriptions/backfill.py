"""Backfill: append past events to the outbox of a subscription, in the order of the feed."""

from typing import Any

from sqlalchemy import ColumnElement, func, insert, literal
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.tables import DeliveryQueueRow, DeliveryRow, EventRow, SubscriptionRow
from schemas.tables.column_types import Document, Key
from service.errors import InvalidBodyError

MAX_BACKFILL_EVENTS = 100_000
"""Past events that a new subscription may begin with: one transaction appends them, and the feed waits for it."""


def backfill(database: Database, session: Session, row: SubscriptionRow, max_events: int = MAX_BACKFILL_EVENTS) -> None:
    """Append the events behind a new subscription's position to its outbox, with their delivery queues.

    The caller holds the lock of the feed.

    Raises:
        InvalidBodyError: If there are more than ``max_events``.
    """
    wanted: list[ColumnElement[bool]] = [col(EventRow.position) > row.after_position]
    if row.types:
        wanted.append(col(EventRow.type).in_(row.types))
    count = session.exec(select(func.count()).select_from(EventRow).where(*wanted)).one()
    if count > max_events:
        raise InvalidBodyError(
            f"'from_position': {count} events lie behind it, and at most {max_events} can be appended at once."
            " Begin later, and read older events from the feed."
        )
    queues = select(literal(row.id), col(EventRow.connection_id), database.now()).where(*wanted).distinct()
    session.exec(insert(DeliveryQueueRow).from_select(["subscription_id", "connection_id", "due_at"], queues))
    append_past_deliveries(database, session, row.id, *wanted)


def append_past_deliveries(
    database: Database,
    session: Session,
    subscription_id: str,
    *wanted: ColumnElement[bool],
    replay_id: str | None = None,
) -> int:
    """Append deliveries of past events behind all deliveries of a subscription, in one statement; return how many.

    The caller holds the lock of the feed, so that no other transaction appends deliveries between them, and marks the
    delivery queues due.

    Args:
        database: The database.
        session: An open transaction that writes.
        subscription_id: The subscription.
        wanted: The conditions on events.
        replay_id: The replay that sends them again.
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
    events = select(*columns.values()).where(*wanted).order_by(col(EventRow.position))
    deliveries = insert(DeliveryRow).from_select([*columns], events).execution_options(preserve_rowcount=True)
    return session.connection().execute(deliveries).rowcount
