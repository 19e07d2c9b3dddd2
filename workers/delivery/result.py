"""Recording the result of a push in one commit: acknowledged, retry later, or dead letter; and releasing its lease.

Locks are taken in the order of ``runtime/queues/deliveries.py``: the subscription, if it changes, then the delivery
queue.
"""

from dataclasses import replace
from typing import Any

from sqlalchemy import Executable, Update, bindparam, case, func, select, update
from sqlmodel import Session, col

from runtime.database import Database
from schemas.push import PushResult
from schemas.tables import DeliveryQueueRow, DeliveryRow, SubscriptionRow
from schemas.tables.column_types import Document
from workers.delivery.backoff import GIVE_UP_SECONDS, LOCAL_FAILURE_RETRY_SECONDS, retry_delay
from workers.delivery.lease import DeliveryLease, clear_if_empty

MAX_OUTCOMES = 40
"""The latest outcomes that are kept of one delivery: more than the retry schedule makes before it gives up."""


class DeliveryLeaseLostError(Exception):
    """The lease ended and another worker may have leased the queue: the result of the push must be discarded."""


def record_result(
    database: Database,
    session: Session,
    lease: DeliveryLease,
    result: PushResult,
    outcome: dict[str, Any],
    *,
    jitter: float,
) -> None:
    """Record the result of a push and release the lease.

    Args:
        database: The database.
        session: An open transaction.
        lease: The lease.
        result: The result of the push.
        outcome: The result as the delivery's row keeps it.
        jitter: A random number from 0 to 1.

    Raises:
        DeliveryLeaseLostError: If the lease was lost; the caller must roll back.
    """
    outcomes = [*lease.outcomes, outcome][-MAX_OUTCOMES:]
    if result.is_acknowledged:
        if lease.is_failing:
            session.exec(_update_subscription(lease).values(failing_since=None, error=None))
        # Due now, after the queues that have been due longer: a long queue must not delay the others.
        _release_queue(database, session, lease, due_in=0.0)
        values = {"which": lease.delivery_id, "count": lease.attempts + 1, "all_outcomes": outcomes}
        database.run(session, _acknowledged_update, **values)
    else:
        _record_subscription_error(database, session, lease, result)
        lease = _reload_attempts(database, session, lease)
        _release_queue(database, session, lease, due_in=_retry_in(lease, result, jitter=jitter))
        session.exec(_failed_update(database, lease, result, outcomes))
    clear_if_empty(database, session, lease)


def _record_subscription_error(database: Database, session: Session, lease: DeliveryLease, result: PushResult) -> None:
    """Record the error on the subscription; disable it if the consumer answered 410 (gone)."""
    values: dict[str, Any] = {"error": result.detail}
    if not result.is_local_failure:
        values["failing_since"] = func.coalesce(SubscriptionRow.failing_since, database.now())
    if result.is_unsubscribed:
        # The answer of one URL does not apply to another URL that an operator has set meanwhile.
        is_same = col(SubscriptionRow.url) == lease.url
        values["disabled_at"] = case((is_same, database.now()), else_=SubscriptionRow.disabled_at)
    session.exec(_update_subscription(lease).values(**values))


def _reload_attempts(database: Database, session: Session, lease: DeliveryLease) -> DeliveryLease:
    """Return the lease with the delivery's current attempts: an operator may have reset them during the push.

    The subscription's row is locked by now, and operators lock it first.
    """
    row = database.run(session, _attempts_query, which=lease.delivery_id).one_or_none()
    return lease if row is None else replace(lease, attempts=row.attempts, is_last=bool(row.is_last))


def _attempts_query(database: Database) -> Executable:
    is_last = (col(DeliveryRow.tried_at) <= database.now(-GIVE_UP_SECONDS)).label("is_last")
    return select(col(DeliveryRow.attempts), is_last).where(col(DeliveryRow.id) == bindparam("which"))


def _retry_in(lease: DeliveryLease, result: PushResult, *, jitter: float) -> float:
    """Return in how many seconds the queue is due again after a failure: at once, or after the backoff.

    It is due at once if this delivery is dead and so no longer blocks the next one. The same holds for the answer 410:
    the queue waits until the subscription is active again, and then needs no further delay.
    """
    if _is_dead(lease, result) or result.is_unsubscribed:
        return 0.0
    if result.is_local_failure:
        return LOCAL_FAILURE_RETRY_SECONDS
    return retry_delay(lease.attempts + 1, retry_after=result.retry_after, jitter=jitter)


def _release_queue(database: Database, session: Session, lease: DeliveryLease, *, due_in: float) -> None:
    """Check the fencing token, and release the queue, due in so many seconds."""
    fence = {
        "for_subscription": lease.subscription_id,
        "for_connection": lease.connection_id,
        "token": lease.token,
    }
    if due_in:
        # Not cached: jitter makes every statement different.
        released = session.connection().execute(_release_update(database, due_in), fence)
    else:
        released = database.run(session, _release_update, 0.0, **fence)
    if released.rowcount != 1:
        raise DeliveryLeaseLostError(lease.delivery_id)


def _is_dead(lease: DeliveryLease, result: PushResult) -> bool:
    # A failure on our side is no reason to give up a consumer's event.
    return lease.is_last and not result.is_local_failure and not result.is_unsubscribed


def _failed_update(
    database: Database, lease: DeliveryLease, result: PushResult, outcomes: list[dict[str, Any]]
) -> Update:
    values: dict[str, Any] = {"error": result.detail, "outcomes": outcomes}
    if not result.is_local_failure:
        # A failure on our side does not use up the consumer's three days.
        values["attempts"] = lease.attempts + 1
        values["tried_at"] = func.coalesce(DeliveryRow.tried_at, database.now())
    if _is_dead(lease, result):
        values["dead_at"] = database.now()
    return update(DeliveryRow).where(col(DeliveryRow.id) == lease.delivery_id).values(**values)


def _acknowledged_update(database: Database) -> Executable:
    acknowledged = update(DeliveryRow).where(col(DeliveryRow.id) == bindparam("which"))
    return acknowledged.values(
        attempts=bindparam("count"),
        tried_at=func.coalesce(DeliveryRow.tried_at, database.now()),
        delivered_at=database.now(),
        error=None,
        outcomes=bindparam("all_outcomes", type_=Document),
    )


def _release_update(database: Database, seconds: float) -> Executable:
    queue = update(DeliveryQueueRow).where(
        col(DeliveryQueueRow.subscription_id) == bindparam("for_subscription"),
        col(DeliveryQueueRow.connection_id) == bindparam("for_connection"),
        col(DeliveryQueueRow.lease_token) == bindparam("token"),
    )
    return queue.values(due_at=database.now(seconds), lease_token=None, leased_until=None)


def _update_subscription(lease: DeliveryLease) -> Update:
    return update(SubscriptionRow).where(col(SubscriptionRow.id) == lease.subscription_id)
