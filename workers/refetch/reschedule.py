"""Postpone: one commit that gives a claim back after a read without a usable answer. The mirror is not touched."""

from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import circuit_breaker
from schemas.meld.read_outcome import Absent, Refused, Throttled, Unreadable
from schemas.tables import ReadRequestRow, WebhookRow
from workers.refetch.commit import LeaseLostError
from workers.refetch.lease import ReadLease, mark_webhooks
from workers.refetch.retry_policy import FRESH_SECONDS, PAUSE_SECONDS, Failure, RetryDecision, judge


def postpone(
    database: Database, session: Session, claim: ReadLease, failure: Failure, *, jitter: float
) -> RetryDecision:
    """Put the read off, as the outcome's policy says, and return what was decided.

    Raises:
        OutrunError: Where the claim is no longer the newest; nothing is written then.
    """
    is_raised = _fence(session, claim)
    # Reads that were under way when somebody else's failure began the pause say nothing new about Meld.
    pause = circuit_breaker.get_open_circuit(session)
    is_news = claim.is_probe or pause is None
    # Its refusal before closed the gate, and only another connection's good answer can have opened it since.
    is_own = isinstance(failure, Refused) and pause is None and claim.error == failure.detail
    is_systemic = isinstance(failure, Throttled | Refused) and not is_own
    failures = circuit_breaker.record_failure(session, claim.connection_id, is_systemic=is_systemic) if is_news else 0
    verdict = judge(
        failure,
        attempts=0 if is_raised else claim.attempts,
        failures=failures,
        is_fresh=_is_fresh(database, session, claim.connection_id),
        jitter=jitter,
        is_own=is_own,
    )
    if is_news:
        _steer_gate(database, session, claim, failure, verdict)
    _put_off(database, session, claim, verdict, is_raised=is_raised)
    if verdict.is_dead:
        mark_webhooks(session, claim, failed_at=database.now(), error=verdict.detail)
    return verdict


def _steer_gate(
    database: Database, session: Session, claim: ReadLease, failure: Failure, verdict: RetryDecision
) -> None:
    if verdict.pause is not None:
        circuit_breaker.open_circuit(
            database, session, reason=verdict.reason, detail=verdict.detail, seconds=verdict.pause
        )
    elif isinstance(failure, Absent | Unreadable):
        # Of no use for this connection, but Meld takes reads.
        circuit_breaker.close_circuit(session)
    elif claim.is_probe:
        circuit_breaker.open_circuit(
            database, session, reason="unavailable", detail=verdict.detail, seconds=PAUSE_SECONDS
        )


def _fence(session: Session, claim: ReadLease) -> bool:
    """Pass the fence. Return whether a later read is owed already: a wish of its own, with all attempts before it."""
    fence = (
        update(ReadRequestRow)
        .where(col(ReadRequestRow.connection_id) == claim.connection_id, col(ReadRequestRow.lease_token) == claim.token)
        .values(lease_token=None, leased_until=None)
        .returning(col(ReadRequestRow.requested) > claim.generation)
    )
    row = session.exec(fence).one_or_none()
    if row is None:
        raise LeaseLostError(claim.connection_id)
    return bool(row[0])


def _is_fresh(database: Database, session: Session, connection_id: str) -> bool:
    newest = select(col(WebhookRow.received_at) > database.now(-FRESH_SECONDS)).where(
        WebhookRow.connection_id == connection_id
    )
    return bool(session.exec(newest.order_by(col(WebhookRow.id).desc()).limit(1)).first())


def _put_off(
    database: Database, session: Session, claim: ReadLease, verdict: RetryDecision, *, is_raised: bool
) -> None:
    attempts = ReadRequestRow.attempts if verdict.costs_attempt else ReadRequestRow.attempts - 1
    values: dict[str, Any] = {
        "due_at": database.now(verdict.delay) if verdict.delay is not None else None,
        "error": verdict.detail,
        "attempts": 0 if is_raised else attempts,
    }
    if verdict.is_dead:
        values["failed_at"] = database.now()
    session.exec(
        update(ReadRequestRow).where(col(ReadRequestRow.connection_id) == claim.connection_id).values(**values)
    )
