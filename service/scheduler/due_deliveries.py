"""Find subscriptions with due deliveries (outbox) whose workers no message is on its way to."""

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import deliveries
from schemas.tables import DeliveryQueueRow, SubscriptionRow

MAX_MESSAGES_PER_SUBSCRIPTION = 8
"""Messages for one subscription at a time. Each worker pushes whatever is due, and more threads do not help."""


def mark_due_subscriptions(database: Database, session: Session) -> list[str]:
    """Return the subscriptions to enqueue messages for, one entry for each message, and mark them as notified.

    A subscription that was notified within the last seconds is left out: its message may still be in the broker, or no
    worker may be running.
    """
    due = (
        select(DeliveryQueueRow.subscription_id, func.count())
        .join(SubscriptionRow, col(SubscriptionRow.id) == col(DeliveryQueueRow.subscription_id))
        .where(
            deliveries.is_ready(database), deliveries.is_subscription_active(), deliveries.needs_notification(database)
        )
        .group_by(col(DeliveryQueueRow.subscription_id))
    )
    counts = {id_: min(count, MAX_MESSAGES_PER_SUBSCRIPTION) for id_, count in session.exec(due).all()}
    if counts:
        notified = update(SubscriptionRow).where(col(SubscriptionRow.id).in_(sorted(counts)))
        session.exec(notified.values(woken_at=database.now()))
    return [id_ for id_, count in sorted(counts.items()) for _ in range(count)]
