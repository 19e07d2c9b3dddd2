"""Outbox: how the pushes stand by the rows, and which are due and called for by nobody."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_, update
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues.reads import WOKEN_SECONDS
from schemas.subscriptions import FAILING
from schemas.tables import DeliveryQueueRow, DeliveryRow, SubscriptionRow

MOST_CALLS = 8
"""Calls for one subscription at a time: each takes whatever is due, and more threads than these nobody gives one."""

FAILING_SECONDS = FAILING.total_seconds()


@dataclass(frozen=True, slots=True)
class DeliveryBacklog:
    """How much is pending, for how many seconds the oldest that is due has been, and what needs a person."""

    pending: int
    oldest_seconds: float
    dead: int
    failing: int


def due_pushes(database: Database, session: Session) -> list[str]:
    """Return the subscriptions whose workers should be called, each as often as is of use; note that they are.

    One whose last call has not arrived is left alone for a while: it may be on its way, or nobody may be there.
    """
    is_quiet = or_(
        col(SubscriptionRow.woken_at).is_(None), col(SubscriptionRow.woken_at) < database.now(-WOKEN_SECONDS)
    )
    due = (
        select(DeliveryQueueRow.subscription_id, func.count())
        .join(SubscriptionRow, col(SubscriptionRow.id) == col(DeliveryQueueRow.subscription_id))
        .where(_is_due(database), is_active(), is_quiet)
        .group_by(col(DeliveryQueueRow.subscription_id))
    )
    counts = {id_: min(count, MOST_CALLS) for id_, count in session.exec(due).all()}
    if counts:
        called = update(SubscriptionRow).where(col(SubscriptionRow.id).in_(sorted(counts)))
        session.exec(called.values(woken_at=database.now()))
    return [id_ for id_, count in sorted(counts.items()) for _ in range(count)]


def measure(database: Database, session: Session) -> DeliveryBacklog:
    """Count how the pushes stand."""
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


def is_active() -> ColumnElement[bool]:
    """Return the condition that a subscription is pushed to."""
    return and_(col(SubscriptionRow.paused_at).is_(None), col(SubscriptionRow.disabled_at).is_(None))


def _oldest_seconds(database: Database, session: Session) -> float:
    oldest = (
        select(DeliveryQueueRow.due_at, database.now())
        .join(SubscriptionRow, col(SubscriptionRow.id) == col(DeliveryQueueRow.subscription_id))
        .where(_is_due(database), is_active())
        .order_by(col(DeliveryQueueRow.due_at))
        .limit(1)
    )
    row = session.exec(oldest).first()
    if row is None or row[0] is None:
        return 0.0
    return max((row[1] - row[0]).total_seconds(), 0.0)


def _is_due(database: Database) -> ColumnElement[bool]:
    return and_(
        col(DeliveryQueueRow.due_at) <= database.now(),
        or_(col(DeliveryQueueRow.leased_until).is_(None), col(DeliveryQueueRow.leased_until) < database.now()),
    )
