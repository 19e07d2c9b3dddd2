"""Redrive of dead deliveries (dead letters), and retry of pending ones: their attempts begin again, now."""

from sqlalchemy import ColumnElement, update
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.tables import DeliveryQueueRow, DeliveryRow

IS_PENDING = col(DeliveryRow.delivered_at).is_(None) & col(DeliveryRow.dead_at).is_(None)
IS_DEAD = col(DeliveryRow.dead_at).is_not(None)


def retry_now(database: Database, session: Session, subscription_id: str, condition: ColumnElement[bool]) -> int:
    """Reset the attempts of a subscription's deliveries, and mark their queues due; return how many were reset.

    Args:
        database: The database.
        session: An open transaction that holds the feed and the lock of the subscription.
        subscription_id: The subscription.
        condition: Which deliveries: ``IS_PENDING`` or ``IS_DEAD``.
    """
    mine = col(DeliveryRow.subscription_id) == subscription_id
    connections = select(DeliveryRow.connection_id).where(mine, condition)
    queues = update(DeliveryQueueRow).where(
        col(DeliveryQueueRow.subscription_id) == subscription_id, col(DeliveryQueueRow.connection_id).in_(connections)
    )
    session.exec(queues.values(due_at=database.now()))
    # Of the pending deliveries, only the first one of each queue was ever tried.
    tried = update(DeliveryRow).where(mine, condition, col(DeliveryRow.attempts) > 0)
    return session.exec(tried.values(attempts=0, tried_at=None, dead_at=None)).rowcount
