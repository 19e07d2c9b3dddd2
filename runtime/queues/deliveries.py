"""Delivery queues: one database row for each subscription and connection (ordering key), with due time and lease.

Transactions take locks in one order: the feed's counter, then subscriptions, then delivery queues, then deliveries. A
transaction that touches many queues holds the counter. A worker that sends holds no counter; it waits for one queue,
the one whose result it records, and leases the next in the same transaction, skipping queues that are locked. Therefore
transactions cannot deadlock each other.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Executable, and_, bindparam, or_, update
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues.reads import RENOTIFY_AFTER_SECONDS
from schemas.tables import DeliveryQueueRow, FeedCounterRow, SubscriptionRow

QueueKey = tuple[str, str]
"""The id of a subscription and the id of a connection."""


def is_ready(database: Database) -> ColumnElement[bool]:
    """Return the condition that a worker may lease the queue now: a delivery is due, and no worker holds a lease."""
    return and_(
        col(DeliveryQueueRow.due_at) <= database.now(),
        or_(col(DeliveryQueueRow.leased_until).is_(None), col(DeliveryQueueRow.leased_until) < database.now()),
    )


def is_subscription_active() -> ColumnElement[bool]:
    """Return the condition that events are pushed to the subscription: it is neither paused nor disabled."""
    return and_(col(SubscriptionRow.paused_at).is_(None), col(SubscriptionRow.disabled_at).is_(None))


def needs_notification(database: Database) -> ColumnElement[bool]:
    """Return the condition that no message for the subscription's workers is on its way."""
    return or_(
        col(SubscriptionRow.woken_at).is_(None), col(SubscriptionRow.woken_at) < database.now(-RENOTIFY_AFTER_SECONDS)
    )


def lock_feed(session: Session) -> int:
    """Stop all other transactions from appending to the feed until this one ends; return the feed's last position."""
    counter = select(FeedCounterRow.value).where(FeedCounterRow.name == "feed").with_for_update()
    return session.exec(counter).one()


def mark_queues_due(database: Database, session: Session, queues: Collection[QueueKey]) -> None:
    """Mark these delivery queues due now, and insert the missing ones. A queue that waits for a retry is unchanged.

    A worker that empties a queue holds its lock: this function waits for it, and then finds the queue empty.
    """
    for subscription_id, connection_id in sorted(queues):
        database.run(session, _mark_due, for_subscription=subscription_id, for_connection=connection_id)


def release(session: Session, token: str) -> None:
    """Release the lease that has this token."""
    session.exec(update(DeliveryQueueRow).where(col(DeliveryQueueRow.lease_token) == token).values(_NO_LEASE))


def release_all(session: Session) -> None:
    """Release the leases of all queues, and mark no worker as notified.

    For a process that starts and knows that it is the only one: leases and messages of its predecessor are lost.
    """
    session.exec(update(SubscriptionRow).where(col(SubscriptionRow.woken_at).is_not(None)).values(woken_at=None))
    session.exec(update(DeliveryQueueRow).where(col(DeliveryQueueRow.lease_token).is_not(None)).values(_NO_LEASE))


_NO_LEASE: dict[str, Any] = {"lease_token": None, "leased_until": None}


def _mark_due(database: Database) -> Executable:
    row = {
        "subscription_id": bindparam("for_subscription"),
        "connection_id": bindparam("for_connection"),
        "due_at": database.now(),
    }
    return (
        database.insert(DeliveryQueueRow)
        .values(row)
        .on_conflict_do_update(
            index_elements=["subscription_id", "connection_id"],
            set_={"due_at": database.now()},
            where=col(DeliveryQueueRow.due_at).is_(None),
        )
    )
