"""Errand: a lease on one lane of a subscription, with the delivery that is first on it.

While it lasts nobody else sends on that lane. It is a claim as that on a job is, see ``claim.py``; who sends without
it any more, because it took too long, finds its result thrown away.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Executable, bindparam, exists, or_, select, update
from sqlmodel import Session, col

from runtime.database import Database
from schemas.tables import DeliveryQueueRow, DeliveryRow, EventRow, SubscriptionRow
from workers.delivery.backoff import GIVE_UP_SECONDS


@dataclass(frozen=True, slots=True)
class DeliveryLease:
    """The right to push one event to one subscription.

    Attributes:
        subscription_id: The subscription.
        connection_id: The connection that the event is of.
        token: The fence: what came of it must bear it.
        delivery_id: The delivery.
        url: Where it goes.
        secrets: The sealed secrets that sign it; none where it goes to a handler.
        event: The event, as the feed has it.
        attempts: How often it was tried before.
        outcomes: What came of that.
        is_last: Whether it is given up if it is not taken now.
        is_failing: Whether the subscription bears an error: then a push that is taken clears it.
        replay_id: The replay that it is of; None for one that is sent for the first time.
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
    """A subscription that may be pushed to, as it is now.

    Attributes:
        id: The subscription.
        url: Where its pushes go.
        secrets: The sealed secrets that sign them; none where they go to a handler.
        is_failing: Whether it bears an error.
    """

    id: str
    url: str
    secrets: tuple[str, ...]
    is_failing: bool


def look(database: Database, session: Session, subscription_id: str) -> DeliveryTarget | None:
    """Look at a subscription; None where it shall rest. To be done before any lane is locked, see runtime/queues/deliveries.py."""
    row = database.run(session, _target, which=subscription_id).one_or_none()
    if row is None:
        return None
    if row.woken_at is not None:
        # The call has arrived.
        database.run(session, _arrived, which=subscription_id)
    previous = [old["sealed"] for old in row.previous_secrets if datetime.fromisoformat(old["until"]) > row.now]
    return DeliveryTarget(
        id=subscription_id,
        url=row.url,
        secrets=(row.secret, *previous) if row.secret else (),
        is_failing=row.failing_since is not None or row.error is not None,
    )


def take(
    database: Database, session: Session, target: DeliveryTarget, *, token: str, lease_seconds: float
) -> DeliveryLease | None:
    """Lease the lane of a subscription that has been due longest; None where none is due."""
    while True:
        connection_id = database.run(session, _lease, lease_seconds, owed_to=target.id, token=token).scalar()
        if connection_id is None:
            return None
        first = database.run(session, _first, owed_to=target.id, about=connection_id).one_or_none()
        if first is not None:
            break
        database.run(session, _emptied, owed_to=target.id, about=connection_id)
    return DeliveryLease(
        subscription_id=target.id,
        connection_id=connection_id,
        token=token,
        delivery_id=first.delivery_id,
        url=target.url,
        secrets=target.secrets,
        event=EventRow(**{name: getattr(first, name) for name in _EVENT}),
        attempts=first.attempts,
        outcomes=tuple(first.outcomes),
        is_last=bool(first.is_last),
        is_failing=target.is_failing,
        replay_id=first.replay_id,
    )


_EVENT = ("position", "id", "connection_id", "sequence", "type", "account_id", "time", "observation_id", "data")


def note_emptied(database: Database, session: Session, errand: DeliveryLease) -> None:
    """Note that nothing is left on a lane, if so. The caller has locked it, and this is a statement of its own.

    Whoever owes something new locks the lane too, until it is committed: it is seen here, or they find the lane empty.
    """
    database.run(session, _emptied, owed_to=errand.subscription_id, about=errand.connection_id)


def _pending_on_lane() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a delivery is still to be sent on the lane ``owed_to``, ``about``."""
    return (
        col(DeliveryRow.subscription_id) == bindparam("owed_to"),
        col(DeliveryRow.connection_id) == bindparam("about"),
        col(DeliveryRow.delivered_at).is_(None),
        col(DeliveryRow.dead_at).is_(None),
    )


def _target(database: Database) -> Executable:
    names = ("url", "secret", "previous_secrets", "woken_at", "failing_since", "error")
    columns: list[Any] = [getattr(SubscriptionRow, name) for name in names]
    return select(*columns, database.now().label("now")).where(
        col(SubscriptionRow.id) == bindparam("which"),
        col(SubscriptionRow.paused_at).is_(None),
        col(SubscriptionRow.disabled_at).is_(None),
    )


def _arrived(_database: Database) -> Executable:
    return update(SubscriptionRow).where(col(SubscriptionRow.id) == bindparam("which")).values(woken_at=None)


def _lease(database: Database, seconds: float) -> Executable:
    due = (
        select(col(DeliveryQueueRow.connection_id))
        .where(
            col(DeliveryQueueRow.subscription_id) == bindparam("owed_to"),
            col(DeliveryQueueRow.due_at) <= database.now(),
            or_(col(DeliveryQueueRow.leased_until).is_(None), col(DeliveryQueueRow.leased_until) < database.now()),
        )
        .order_by(col(DeliveryQueueRow.due_at))
        .limit(1)
        # Others take the lanes behind it meanwhile.
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    lease = update(DeliveryQueueRow).where(
        col(DeliveryQueueRow.subscription_id) == bindparam("owed_to"), col(DeliveryQueueRow.connection_id) == due
    )
    lease = lease.values(lease_token=bindparam("token"), leased_until=database.now(seconds))
    return lease.returning(col(DeliveryQueueRow.connection_id))


def _first(database: Database) -> Executable:
    is_last = col(DeliveryRow.tried_at) <= database.now(-GIVE_UP_SECONDS)
    columns: list[Any] = [
        col(DeliveryRow.id).label("delivery_id"),
        DeliveryRow.attempts,
        DeliveryRow.outcomes,
        DeliveryRow.replay_id,
        is_last.label("is_last"),
        *(getattr(EventRow, name) for name in _EVENT),
    ]
    first = (
        select(*columns).join(EventRow, col(EventRow.position) == col(DeliveryRow.position)).where(*_pending_on_lane())
    )
    return first.order_by(col(DeliveryRow.id)).limit(1)


def _emptied(_database: Database) -> Executable:
    lane = update(DeliveryQueueRow).where(
        col(DeliveryQueueRow.subscription_id) == bindparam("owed_to"),
        col(DeliveryQueueRow.connection_id) == bindparam("about"),
        ~exists().where(*_pending_on_lane()),
    )
    return lane.values(due_at=None, lease_token=None, leased_until=None)
