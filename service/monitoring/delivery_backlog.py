"""Backlog of deliveries (outbox): how many are pending or dead, how long the oldest has been due, what fails."""

from dataclasses import dataclass

from sqlalchemy import func
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import deliveries
from schemas.subscriptions import FAILING_AFTER
from schemas.tables import DeliveryQueueRow, DeliveryRow, SubscriptionRow

FAILING_SECONDS = FAILING_AFTER.total_seconds()


@dataclass(frozen=True, slots=True)
class DeliveryBacklog:
    """The backlog.

    Attributes:
        pending: Deliveries that are neither acknowledged nor dead.
        oldest_seconds: For how many seconds the oldest due delivery queue of an active subscription has been due.
        dead: Dead deliveries.
        failing: Subscriptions that have failed for ``FAILING_SECONDS``.
    """

    pending: int
    oldest_seconds: float
    dead: int
    failing: int


def measure(database: Database, session: Session) -> DeliveryBacklog:
    """Return the backlog."""
    pending = (
        select(func.count())
        .select_from(DeliveryRow)
        .where(col(DeliveryRow.delivered_at).is_(None), col(DeliveryRow.dead_at).is_(None))
    )
    dead = select(func.count()).select_from(DeliveryRow).where(col(DeliveryRow.dead_at).is_not(None))
    failing = (
        select(func.count())
        .select_from(SubscriptionRow)
        .where(col(SubscriptionRow.failing_since) < database.now(-FAILING_SECONDS))
    )
    return DeliveryBacklog(
        pending=session.exec(pending).one(),
        oldest_seconds=_oldest_seconds(database, session),
        dead=session.exec(dead).one(),
        failing=session.exec(failing).one(),
    )


def _oldest_seconds(database: Database, session: Session) -> float:
    oldest = (
        select(DeliveryQueueRow.due_at, database.now())
        .join(SubscriptionRow, col(SubscriptionRow.id) == col(DeliveryQueueRow.subscription_id))
        .where(deliveries.is_ready(database), deliveries.is_subscription_active())
        .order_by(col(DeliveryQueueRow.due_at))
        .limit(1)
    )
    row = session.exec(oldest).first()
    if row is None or row[0] is None:
        return 0.0
    return max((row[1] - row[0]).total_seconds(), 0.0)
