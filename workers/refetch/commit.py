"""Apply: one commit that makes the mirror say what the read saw, and tells what that changed.

Behind the fence, the mirror's row is only ever written by the holder of the newest claim; so an older read cannot
overwrite a newer one, and what is decided here cannot be outdated by the time it is committed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Executable, bindparam, case, exists, insert, or_, update
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import circuit_breaker, reads
from schemas.meld.connection import TERMINAL_STATUSES
from schemas.meld.webhook import DELETED
from schemas.tables import ConnectionRow, ReadRequestRow, WebhookRow
from workers.refetch.decision import decide, named
from workers.refetch.follow_up_reads import SETTLE_SECONDS, follow
from workers.refetch.lease import ReadLease, mark_processed
from workers.refetch.mirror_row import Reading, mirror_of, state_of
from workers.refetch.observe import AppendedEvents, Observed, record_observations
from workers.refetch.recent_webhooks import recent_webhooks


class LeaseLostError(Exception):
    """A newer claim on the connection exists; this read must be thrown away."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What was committed: the connections to call workers for, the types of the events emitted, and to whom owed."""

    calls: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()


def believes_absence(session: Session, connection_id: str) -> bool:
    """Return whether a 404 means that the connection was deleted: a webhook or an earlier read said so."""
    said = exists().where(col(WebhookRow.connection_id) == connection_id, col(WebhookRow.hint_status) == DELETED)
    seen = exists().where(col(ConnectionRow.id) == connection_id, col(ConnectionRow.status) == DELETED)
    return bool(session.exec(select(or_(said, seen))).one())


def apply(database: Database, session: Session, claim: ReadLease, reading: Reading) -> Applied:
    """Write down what was read, and everything that follows from it.

    Raises:
        OutrunError: Where the claim is no longer the newest; nothing is written then.
    """
    row = session.get(ConnectionRow, claim.connection_id)
    before = state_of(row) if row is not None else None
    account_id = account_of(session, claim.connection_id, row, reading)
    mirror = mirror_of(claim.connection_id, account_id, row, reading)
    is_doubted = False
    if row is not None and _is_end(row, reading) and mirror.status not in TERMINAL_STATUSES:
        # Nothing comes back at Meld, so the answer is older than the end. Where it stays so, it is believed later.
        mirror, is_doubted = row, True
    after = state_of(mirror)
    others = named(before, after)
    if others:
        reads.lock_requests(database, session, {claim.connection_id, *others})
    is_owed = _complete(database, session, claim)
    webhooks = recent_webhooks(
        database,
        session,
        claim,
        seconds=max((reading.ended_at - reading.began_at).total_seconds(), 0),
        previous_read_at=row.checked_at if row is not None else reading.began_at,
    )
    siblings = _siblings(session, others)
    group = {sibling.id: state_of(sibling) for sibling in siblings}
    decision = decide(before, after, group, webhooks.hint, gone_lately=_gone_lately(siblings, reading))
    if is_doubted:
        decision = replace(decision, is_contradicted=True)
    is_new = row is None or row.digest != mirror.digest
    told = AppendedEvents()
    # Before the webhooks, as where a read failed: of those that lock both, none can deadlock another.
    circuit_breaker.close_circuit(session)
    mark_processed(database, session, claim)
    calls = follow(
        database,
        session,
        claim,
        decision,
        is_owed=is_owed,
        is_early=webhooks.needs_confirming_read(after),
        unread=_unread_since(siblings, webhooks.undone_at(before, after)),
    )
    if is_new:
        told = record_observations(database, session, [Observed(claim, reading, mirror, decision)])
        _write(session, row, mirror)
    else:
        database.run(session, _checked, connection=claim.connection_id, began_at=reading.began_at)
    return Applied(tuple(calls), told.types, told.subscriptions)


def dismiss(database: Database, session: Session, claim: ReadLease) -> None:
    """Settle a claim that only a sibling's list had led to, where Meld does not have the connection: nothing is owed.

    Raises:
        OutrunError: Where the claim is no longer the newest.
    """
    _complete(database, session, claim)
    circuit_breaker.close_circuit(session)


def is_only_listed(session: Session, claim: ReadLease) -> bool:
    """Return whether a connection is known from the lists of others alone: no webhook named it, no read found it."""
    is_followed = claim.trigger in {"sibling", "recheck"} and not claim.webhooks
    return is_followed and session.get(ConnectionRow, claim.connection_id) is None


def account_of(session: Session, connection_id: str, row: ConnectionRow | None, reading: Reading) -> str:
    """Return the account as the answer names it, as the mirror knows it, or as the webhooks say."""
    if reading.snapshot is not None and reading.snapshot.account_id is not None:
        return reading.snapshot.account_id
    if row is not None:
        return row.account_id
    said = select(WebhookRow.account_id).where(
        WebhookRow.connection_id == connection_id, col(WebhookRow.account_id).is_not(None)
    )
    return session.exec(said.order_by(col(WebhookRow.id).desc()).limit(1)).first() or ""


def _complete(database: Database, session: Session, claim: ReadLease) -> bool:
    """Pass the fence: complete the claimed generation. Return whether a later one is owed already."""
    values = {"connection": claim.connection_id, "token": claim.token, "generation": claim.generation}
    row = database.run(session, _completion, **values).one_or_none()
    if row is None:
        raise LeaseLostError(claim.connection_id)
    return bool(row[0])


def _write(session: Session, row: ConnectionRow | None, mirror: ConnectionRow) -> None:
    if row is None:
        session.connection().execute(_FIRST, mirror.model_dump())
    else:
        session.merge(mirror)


_FIRST = insert(ConnectionRow)


def _completion(_database: Database) -> Executable:
    is_owed = col(ReadRequestRow.requested) > bindparam("generation")
    fence = update(ReadRequestRow).where(
        col(ReadRequestRow.connection_id) == bindparam("connection"),
        col(ReadRequestRow.lease_token) == bindparam("token"),
    )
    completion = fence.values(
        completed=bindparam("generation"),
        due_at=case((is_owed, ReadRequestRow.due_at), else_=None),
        lease_token=None,
        leased_until=None,
        attempts=0,
        failed_at=None,
        error=None,
    )
    return completion.returning(is_owed)


def _checked(_database: Database) -> Executable:
    mine = update(ConnectionRow).where(col(ConnectionRow.id) == bindparam("connection"))
    return mine.values(checked_at=bindparam("began_at"))


def _gone_lately(siblings: Iterable[ConnectionRow], reading: Reading) -> frozenset[str]:
    """Return who of the siblings had an end that was seen shortly before this read began, or since."""
    return frozenset(row.id for row in siblings if _is_end(row, reading))


def _is_end(row: ConnectionRow, reading: Reading) -> bool:
    return row.status in TERMINAL_STATUSES and row.observed_at > reading.began_at - timedelta(seconds=SETTLE_SECONDS)


def _unread_since(siblings: Iterable[ConnectionRow], undone_at: datetime | None) -> frozenset[str]:
    """Return the siblings that no read has shown since a change of the connection that was undone between two reads.

    The change may have changed them too, and its undoing may have left that: a primary that moved and came back.
    """
    if undone_at is None:
        return frozenset()
    settled_at = undone_at + timedelta(seconds=SETTLE_SECONDS)
    return frozenset(row.id for row in siblings if row.status not in TERMINAL_STATUSES and row.checked_at < settled_at)


def _siblings(session: Session, others: frozenset[str]) -> list[ConnectionRow]:
    return list(session.exec(select(ConnectionRow).where(col(ConnectionRow.id).in_(others))).all()) if others else []
