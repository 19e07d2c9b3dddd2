"""Delivery lease (fencing token): the right to push the first pending delivery of one delivery queue.

During the lease no other worker pushes from this queue, which keeps the events of a connection in order. As with a
read lease (``workers/refetch/lease.py``), a worker whose lease has ended cannot record a result: its token no longer
matches.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Executable, bindparam, exists, select, update
from sqlmodel import Session, col

from runtime.database import Database
from runtime.queues import deliveries
from schemas.tables import DeliveryQueueRow, DeliveryRow, EventRow, SubscriptionRow
from workers.delivery.backoff import GIVE_UP_SECONDS


@dataclass(frozen=True, slots=True)
class DeliveryLease:
    """The right to push one event to one subscription.

    Attributes:
        subscription_id: The subscription.
        connection_id: The event's connection, which with the subscription names the delivery queue.
        token: The fencing token, required to record the result.
        delivery_id: The delivery.
        url: Where the event is sent.
        secrets: The encrypted secrets that sign the push; empty for a handler.
        event: The event, as the feed has it.
        attempts: How many attempts failed before.
        outcomes: The outcomes of these attempts, as stored.
        is_last: Whether the delivery is dead if this attempt fails.
        is_failing: Whether the subscription has a recorded error, which an acknowledged push clears.
        replay_id: The replay that sends the event again; None for its first delivery.
    """

    subscription_id: str
    connection_id: str
    token: str
    delivery_id: int
    url: str
    secrets: tuple[str, ...]
    event: EventRow
    attempts: int
    outcomes: tuple[dict[str, Any], ...]
    is_last: bool
    is_failing: bool
    replay_id: str | None


@dataclass(frozen=True, slots=True)
class DeliveryTarget:
    """A subscription that is active, as it is now.

    Attributes:
        id: The subscription.
        url: Where its events are sent.
        secrets: The encrypted secrets that sign the pushes; empty for a handler.
        is_failing: Whether it has a recorded error.
    """

    id: str
    url: str
    secrets: tuple[str, ...]
    is_failing: bool


def get_target(database: Database, session: Session, subscription_id: str) -> DeliveryTarget | None:
    """Return a subscription; None if it is paused, disabled or deleted.

    Call this before any delivery queue is locked; ``runtime/queues/deliveries.py`` has the order of locks.
    """
    row = database.run(session, _target_query, which=subscription_id).one_or_none()
    if row is None:
        return None
    if row.woken_at is not None:
        # The message has arrived.
        database.run(session, _clear_notified, which=subscription_id)
    previous = [old["sealed"] for old in row.previous_secrets if datetime.fromisoformat(old["until"]) > row.now]
    return DeliveryTarget(
        id=subscription_id,
        url=row.url,
        secrets=(row.secret, *previous) if row.secret else (),
        is_failing=row.failing_since is not None or row.error is not None,
    )


def lease_next(
    database: Database, session: Session, target: DeliveryTarget, *, token: str, lease_seconds: float
) -> DeliveryLease | None:
    """Lease the subscription's delivery queue that has been due longest; return None if none is due."""
    while True:
        connection_id = database.run(
            session, _lease_update, lease_seconds, for_subscription=target.id, token=token
        ).scalar()
        if connection_id is None:
            return None
        queue = {"for_subscription": target.id, "for_connection": connection_id}
        first = database.run(session, _first_pending, **queue).one_or_none()
        if first is not None:
            break
        database.run(session, _clear_empty, **queue)
    return DeliveryLease(
        subscription_id=target.id,
        connection_id=connection_id,
        token=token,
        delivery_id=first.delivery_id,
        url=target.url,
        secrets=target.secrets,
        event=EventRow(**{name: getattr(first, name) for name in _EVENT_COLUMNS}),
        attempts=first.attempts,
        outcomes=tuple(first.outcomes),
        is_last=bool(first.is_last),
        is_failing=target.is_failing,
        replay_id=first.replay_id,
    )


_EVENT_COLUMNS = (
    "position", "id", "connection_id", "sequence", "type", "account_id", "time", "observation_id", "data",
)  # fmt: skip


def clear_if_empty(database: Database, session: Session, lease: DeliveryLease) -> None:
    """Mark the lease's queue as not due if no delivery is pending. The caller has locked the queue.

    This must be a statement of its own. A transaction that adds a delivery locks the queue until it commits: either
    this statement sees its delivery, or that transaction finds the queue not due and marks it as due.
    """
    database.run(session, _clear_empty, for_subscription=lease.subscription_id, for_connection=lease.connection_id)


def _is_pending() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a delivery is pending in the queue ``for_subscription``, ``for_connection``."""
    return (
        col(DeliveryRow.subscription_id) == bindparam("for_subscription"),
        col(DeliveryRow.connection_id) == bindparam("for_connection"),
        col(DeliveryRow.delivered_at).is_(None),
        col(DeliveryRow.dead_at).is_(None),
    )


def _target_query(database: Database) -> Executable:
    names = ("url", "secret", "previous_secrets", "woken_at", "failing_since", "error")
    columns: list[Any] = [getattr(SubscriptionRow, name) for name in names]
    return select(*columns, database.now().label("now")).where(
        col(SubscriptionRow.id) == bindparam("which"), deliveries.is_subscription_active()
    )


def _clear_notified(_database: Database) -> Executable:
    return update(SubscriptionRow).where(col(SubscriptionRow.id) == bindparam("which")).values(woken_at=None)


def _lease_update(database: Database, seconds: float) -> Executable:
    due = (
        select(col(DeliveryQueueRow.connection_id))
        .where(
            col(DeliveryQueueRow.subscription_id) == bindparam("for_subscription"),
            deliveries.is_ready(database),
        )
        .order_by(col(DeliveryQueueRow.due_at))
        .limit(1)
        # Meanwhile other workers lease the next queues.
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    queue = update(DeliveryQueueRow).where(
        col(DeliveryQueueRow.subscription_id) == bindparam("for_subscription"),
        col(DeliveryQueueRow.connection_id) == due,
    )
    leased = queue.values(lease_token=bindparam("token"), leased_until=database.now(seconds))
    return leased.returning(col(DeliveryQueueRow.connection_id))


def _first_pending(database: Database) -> Executable:
    is_last = col(DeliveryRow.tried_at) <= database.now(-GIVE_UP_SECONDS)
    columns: list[Any] = [
        col(DeliveryRow.id).label("delivery_id"),
        DeliveryRow.attempts,
        DeliveryRow.outcomes,
        DeliveryRow.replay_id,
        is_last.label("is_last"),
        *(getattr(EventRow, name) for name in _EVENT_COLUMNS),
    ]
    pending = select(*columns).join(EventRow, col(EventRow.position) == col(DeliveryRow.position)).where(*_is_pending())
    return pending.order_by(col(DeliveryRow.id)).limit(1)


def _clear_empty(_database: Database) -> Executable:
    empty = update(DeliveryQueueRow).where(
        col(DeliveryQueueRow.subscription_id) == bindparam("for_subscription"),
        col(DeliveryQueueRow.connection_id) == bindparam("for_connection"),
        ~exists().where(*_is_pending()),
    )
    return empty.values(due_at=None, lease_token=None, leased_until=None)
