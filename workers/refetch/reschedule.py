"""Reschedule a failed read: one commit that releases the lease, sets the retry time and updates the circuit breaker."""

from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import circuit_breaker
from schemas.meld.read_outcome import Absent, Refused, Throttled, Unreadable
from schemas.tables import ReadRequestRow, WebhookRow
from workers.refetch.commit import LeaseLostError
from workers.refetch.lease import ReadLease, update_webhooks
from workers.refetch.retry_policy import (
    FRESH_SECONDS,
    MAX_PAUSE_SECONDS,
    Failure,
    RetryDecision,
    decide_retry,
    is_own_refusal,
)


def reschedule(
    database: Database, session: Session, lease: ReadLease, failure: Failure, *, jitter: float
) -> RetryDecision:
    """Schedule the retry of a failed read by the retry policy, and return the decision. The mirror does not change.

    Raises:
        LeaseLostError: If the lease is no longer the newest one; nothing is written then.
    """
    is_requested_again = _release(session, lease)
    # A read that was in progress when another failure opened the circuit breaker says nothing new about Meld.
    open_circuit = circuit_breaker.get_open_circuit(session)
    counts = lease.is_probe or open_circuit is None
    is_own = is_own_refusal(failure, is_circuit_open=open_circuit is not None, previous_error=lease.error)
    is_systemic = isinstance(failure, Throttled | Refused) and not is_own
    failures = circuit_breaker.record_failure(session, lease.connection_id, is_systemic=is_systemic) if counts else 0
    retry = decide_retry(
        failure,
        attempts=0 if is_requested_again else lease.attempts,
        failures=failures,
        is_fresh=_is_fresh(database, session, lease.connection_id),
        jitter=jitter,
        is_own=is_own,
    )
    if counts:
        _update_circuit_breaker(database, session, lease, failure, retry)
    _set_retry(database, session, lease, retry, is_requested_again=is_requested_again)
    if retry.is_dead:
        update_webhooks(session, lease, failed_at=database.now(), error=retry.detail)
    return retry


def _update_circuit_breaker(
    database: Database, session: Session, lease: ReadLease, failure: Failure, retry: RetryDecision
) -> None:
    if retry.pause is not None:
        circuit_breaker.open_circuit(database, session, reason=retry.reason, detail=retry.detail, seconds=retry.pause)
    elif isinstance(failure, Absent | Unreadable):
        # Meld answers, though not usefully for this connection.
        circuit_breaker.close_circuit(session)
    elif lease.is_probe:
        circuit_breaker.open_circuit(
            database, session, reason="unavailable", detail=retry.detail, seconds=MAX_PAUSE_SECONDS
        )


def _release(session: Session, lease: ReadLease) -> bool:
    """Check the fencing token and release the lease. Return whether another read was requested meanwhile."""
    released = (
        update(ReadRequestRow)
        .where(col(ReadRequestRow.connection_id) == lease.connection_id, col(ReadRequestRow.lease_token) == lease.token)
        .values(lease_token=None, leased_until=None)
        .returning(col(ReadRequestRow.requested) > lease.generation)
    )
    row = session.exec(released).one_or_none()
    if row is None:
        raise LeaseLostError(lease.connection_id)
    return bool(row[0])


def _is_fresh(database: Database, session: Session, connection_id: str) -> bool:
    newest = select(col(WebhookRow.received_at) > database.now(-FRESH_SECONDS)).where(
        WebhookRow.connection_id == connection_id
    )
    return bool(session.exec(newest.order_by(col(WebhookRow.id).desc()).limit(1)).first())


def _set_retry(
    database: Database, session: Session, lease: ReadLease, retry: RetryDecision, *, is_requested_again: bool
) -> None:
    attempts = ReadRequestRow.attempts if retry.costs_attempt else ReadRequestRow.attempts - 1
    values: dict[str, Any] = {
        "due_at": database.now(retry.delay) if retry.delay is not None else None,
        "error": retry.detail,
        "attempts": 0 if is_requested_again else attempts,
    }
    if retry.is_dead:
        values["failed_at"] = database.now()
    session.exec(
        update(ReadRequestRow).where(col(ReadRequestRow.connection_id) == lease.connection_id).values(**values)
    )
