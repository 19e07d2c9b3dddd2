"""Settle: one commit that writes down what came of a push, and gives its lane to the next.

Locks in the order of ``runtime/queues/deliveries.py``: the subscription, where it is touched at all, then the lane.
"""

from dataclasses import replace
from typing import Any

from sqlalchemy import Executable, Update, bindparam, case, func, select, update
from sqlmodel import Session, col

from runtime.database import Database
from schemas.push import Receipt
from schemas.tables import DeliveryQueueRow, DeliveryRow, SubscriptionRow
from schemas.tables.column_types import Document
from workers.delivery.backoff import GIVE_UP_SECONDS, OURS_SECONDS, delay
from workers.delivery.lease import DeliveryLease, note_emptied

MOST_OUTCOMES = 40
"""Outcomes kept of one delivery: more than there are before it is given up."""


class DeliveryLeaseLostError(Exception):
    """The lease ended, and somebody else has the lane: what came of the push must be thrown away."""


def settle(
    database: Database,
    session: Session,
    errand: DeliveryLease,
    receipt: Receipt,
    outcome: dict[str, Any],
    *,
    jitter: float,
) -> None:
    """Write down what came of a push.

    Args:
        database: The database.
        session: An open transaction.
        errand: The lease.
        receipt: What came of it.
        outcome: The same, as it is kept.
        jitter: A number from 0 to 1.

    Raises:
        OvertakenError: Where the lease is no longer ours; nothing is written then.
    """
    outcomes = [*errand.outcomes, outcome][-MOST_OUTCOMES:]
    if receipt.is_taken:
        if errand.is_failing:
            session.exec(_subscription(errand).values(failing_since=None, error=None))
        _pass_fence(database, session, errand)
        values = {"which": errand.delivery_id, "count": errand.attempts + 1, "came_of_it": outcomes}
        database.run(session, _delivered, **values)
    else:
        _blame(database, session, errand, receipt)
        errand = _look_again(database, session, errand)
        _put_off(database, session, errand, receipt, jitter=jitter)
        session.exec(_failed(database, errand, receipt, outcomes))
    note_emptied(database, session, errand)


def _blame(database: Database, session: Session, errand: DeliveryLease, receipt: Receipt) -> None:
    """Note on the subscription what went wrong; one whose consumer is gone is disabled."""
    values: dict[str, Any] = {"error": receipt.detail}
    if not receipt.is_ours:
        values["failing_since"] = func.coalesce(SubscriptionRow.failing_since, database.now())
    if receipt.is_gone:
        # What one URL answers says nothing of another that an operator has set meanwhile.
        is_same = col(SubscriptionRow.url) == errand.url
        values["disabled_at"] = case((is_same, database.now()), else_=SubscriptionRow.disabled_at)
    session.exec(_subscription(errand).values(**values))


def _look_again(database: Database, session: Session, errand: DeliveryLease) -> DeliveryLease:
    """Return the errand as its delivery is by now: an operator may have had it begin anew while it was under way.

    The subscription's row is locked, and operators lock it first.
    """
    row = database.run(session, _present, which=errand.delivery_id).one_or_none()
    return errand if row is None else replace(errand, attempts=row.attempts, is_last=bool(row.is_last))


def _present(database: Database) -> Executable:
    is_last = (col(DeliveryRow.tried_at) <= database.now(-GIVE_UP_SECONDS)).label("is_last")
    return select(col(DeliveryRow.attempts), is_last).where(col(DeliveryRow.id) == bindparam("which"))


def _put_off(database: Database, session: Session, errand: DeliveryLease, receipt: Receipt, *, jitter: float) -> None:
    """Pass the fence, and say when the lane is due again: at once where this delivery no longer stands before others.

    One that was answered 410 is not put off either: it waits for the subscription to be made active again.
    """
    is_over = _is_dead(errand, receipt) or receipt.is_gone
    seconds = delay(errand.attempts + 1, retry_after=receipt.retry_after, jitter=jitter)
    if is_over or receipt.is_ours:
        seconds = 0.0 if is_over else OURS_SECONDS
    fence = update(DeliveryQueueRow).where(
        col(DeliveryQueueRow.subscription_id) == errand.subscription_id,
        col(DeliveryQueueRow.connection_id) == errand.connection_id,
        col(DeliveryQueueRow.lease_token) == errand.token,
    )
    given = fence.values(due_at=database.now(seconds), lease_token=None, leased_until=None)
    if session.exec(given).rowcount != 1:
        raise DeliveryLeaseLostError(errand.delivery_id)


def _pass_fence(database: Database, session: Session, errand: DeliveryLease) -> None:
    lane = {"owed_to": errand.subscription_id, "about": errand.connection_id, "token": errand.token}
    if database.run(session, _passed, **lane).rowcount != 1:
        raise DeliveryLeaseLostError(errand.delivery_id)


def _is_dead(errand: DeliveryLease, receipt: Receipt) -> bool:
    # What fails here is ours to mend, and no reason to give the consumer's event up.
    return errand.is_last and not receipt.is_ours and not receipt.is_gone


def _failed(database: Database, errand: DeliveryLease, receipt: Receipt, outcomes: list[dict[str, Any]]) -> Update:
    values: dict[str, Any] = {"error": receipt.detail, "outcomes": outcomes}
    if not receipt.is_ours:
        # Of the consumer's three days nothing is taken by what fails here.
        values["attempts"] = errand.attempts + 1
        values["tried_at"] = func.coalesce(DeliveryRow.tried_at, database.now())
    if _is_dead(errand, receipt):
        values["dead_at"] = database.now()
    return update(DeliveryRow).where(col(DeliveryRow.id) == errand.delivery_id).values(**values)


def _delivered(database: Database) -> Executable:
    delivered = update(DeliveryRow).where(col(DeliveryRow.id) == bindparam("which"))
    return delivered.values(
        attempts=bindparam("count"),
        tried_at=func.coalesce(DeliveryRow.tried_at, database.now()),
        delivered_at=database.now(),
        error=None,
        outcomes=bindparam("came_of_it", type_=Document),
    )


def _passed(database: Database) -> Executable:
    fence = update(DeliveryQueueRow).where(
        col(DeliveryQueueRow.subscription_id) == bindparam("owed_to"),
        col(DeliveryQueueRow.connection_id) == bindparam("about"),
        col(DeliveryQueueRow.lease_token) == bindparam("token"),
    )
    # Behind the lanes that have been due for longer: a long lane must not hold up the others.
    return fence.values(due_at=database.now(), lease_token=None, leased_until=None)


def _subscription(errand: DeliveryLease) -> Update:
    return update(SubscriptionRow).where(col(SubscriptionRow.id) == errand.subscription_id)
