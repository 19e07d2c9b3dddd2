"""Postpone: one commit that gives a claim back after a read without a usable answer. The mirror is not touched."""

from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from runtime import gate
from runtime.database import Database
from schemas.meld import Absent, Refused, Throttled, Unreadable
from schemas.tables import Job, Webhook
from workers.apply import OutrunError
from workers.claim import Claim, mark_webhooks
from workers.policy import FRESH_SECONDS, PAUSE_SECONDS, Failure, Verdict, judge


def postpone(database: Database, session: Session, claim: Claim, failure: Failure, *, jitter: float) -> Verdict:
    """Put the read off, as the outcome's policy says, and return what was decided.

    Raises:
        OutrunError: Where the claim is no longer the newest; nothing is written then.
    """
    is_raised = _fence(session, claim)
    # Reads that were under way when somebody else's failure began the pause say nothing new about Meld.
    pause = gate.current(session)
    is_news = claim.is_probe or pause is None
    # Its refusal before closed the gate, and only another connection's good answer can have opened it since.
    is_own = isinstance(failure, Refused) and pause is None and claim.error == failure.detail
    speaks_of_meld = isinstance(failure, Throttled | Refused) and not is_own
    failures = gate.count(session, claim.connection_id, speaks_of_meld=speaks_of_meld) if is_news else 0
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


def _steer_gate(database: Database, session: Session, claim: Claim, failure: Failure, verdict: Verdict) -> None:
    if verdict.pause is not None:
        gate.close(database, session, reason=verdict.reason, detail=verdict.detail, seconds=verdict.pause)
    elif isinstance(failure, Absent | Unreadable):
        # Of no use for this connection, but Meld takes reads.
        gate.open_(session)
    elif claim.is_probe:
        gate.close(database, session, reason="unavailable", detail=verdict.detail, seconds=PAUSE_SECONDS)


def _fence(session: Session, claim: Claim) -> bool:
    """Pass the fence. Return whether a later read is owed already: a wish of its own, with all attempts before it."""
    fence = (
        update(Job)
        .where(col(Job.connection_id) == claim.connection_id, col(Job.lease_token) == claim.token)
        .values(lease_token=None, leased_until=None)
        .returning(col(Job.requested) > claim.generation)
    )
    row = session.exec(fence).one_or_none()
    if row is None:
        raise OutrunError(claim.connection_id)
    return bool(row[0])


def _is_fresh(database: Database, session: Session, connection_id: str) -> bool:
    newest = select(col(Webhook.received_at) > database.now(-FRESH_SECONDS)).where(
        Webhook.connection_id == connection_id
    )
    return bool(session.exec(newest.order_by(col(Webhook.id).desc()).limit(1)).first())


def _put_off(database: Database, session: Session, claim: Claim, verdict: Verdict, *, is_raised: bool) -> None:
    attempts = Job.attempts if verdict.costs_attempt else Job.attempts - 1
    values: dict[str, Any] = {
        "due_at": database.now(verdict.delay) if verdict.delay is not None else None,
        "error": verdict.detail,
        "attempts": 0 if is_raised else attempts,
    }
    if verdict.is_dead:
        values["failed_at"] = database.now()
    session.exec(update(Job).where(col(Job.connection_id) == claim.connection_id).values(**values))
