"""Commit of a read: one transaction with the mirror row, the observation, its events and the follow-up reads.

The lease's token is a fencing token: only the holder of the newest lease writes the mirror row. So an older read cannot
overwrite a newer one, and a decision cannot be outdated when it is committed.
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
from workers.refetch.decision import decide, group_members
from workers.refetch.follow_up_reads import request_follow_up_reads
from workers.refetch.lease import ReadLease, mark_processed
from workers.refetch.mirror_row import Reading, build_mirror_row, mirror_state
from workers.refetch.observe import AppendedEvents, Observed, record_observations
from workers.refetch.recent_webhooks import get_recent_webhooks
from workers.refetch.recheck_delays import MAX_API_LAG_SECONDS


class LeaseLostError(Exception):
    """The lease is no longer the newest one of its connection; the result of the read must be discarded."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What to notify after the commit.

    Attributes:
        connection_ids: Connections that have a read request.
        event_types: The types of the appended events.
        subscription_ids: Subscriptions that have new deliveries.
    """

    connection_ids: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    subscription_ids: tuple[str, ...] = ()


def is_known_deleted(session: Session, connection_id: str) -> bool:
    """Return whether a 404 means that the connection was deleted, because a webhook or an earlier read said so."""
    is_announced = exists().where(
        col(WebhookRow.connection_id) == connection_id, col(WebhookRow.hint_status) == DELETED
    )
    is_stored = exists().where(col(ConnectionRow.id) == connection_id, col(ConnectionRow.status) == DELETED)
    return bool(session.exec(select(or_(is_announced, is_stored))).one())


def commit_read(database: Database, session: Session, lease: ReadLease, reading: Reading) -> CommitResult:
    """Write the result of a read and everything that follows from it.

    Raises:
        LeaseLostError: If the lease is no longer the newest one; nothing is written then.
    """
    row = session.get(ConnectionRow, lease.connection_id)
    before = mirror_state(row) if row is not None else None
    account_id = find_account_id(session, lease.connection_id, row, reading)
    mirror = build_mirror_row(lease.connection_id, account_id, row, reading)
    is_doubted = False
    if row is not None and _ended_recently(row, reading) and mirror.status not in TERMINAL_STATUSES:
        # No connection returns from an end at Meld, so the answer is older than the end. A later read accepts it.
        mirror, is_doubted = row, True
    after = mirror_state(mirror)
    members = group_members(before, after)
    if members:
        reads.lock_requests(database, session, {lease.connection_id, *members})
    is_pending = _complete(database, session, lease)
    webhooks = get_recent_webhooks(
        database,
        session,
        lease,
        read_seconds=max((reading.ended_at - reading.began_at).total_seconds(), 0),
        previous_read_at=row.checked_at if row is not None else reading.began_at,
    )
    siblings = _siblings(session, members)
    recently_ended = frozenset(sibling.id for sibling in siblings if _ended_recently(sibling, reading))
    group = {sibling.id: mirror_state(sibling) for sibling in siblings}
    decision = decide(before, after, group, webhooks.hint, recently_ended=recently_ended)
    if is_doubted:
        decision = replace(decision, is_contradicted=True)
    # Lock order: circuit breaker, then webhooks, as in reschedule.py. So two transactions cannot deadlock.
    circuit_breaker.close_circuit(session)
    mark_processed(database, session, lease)
    notified = request_follow_up_reads(
        database,
        session,
        lease,
        decision,
        is_pending=is_pending,
        needs_confirming_read=webhooks.needs_confirming_read(after),
        unread_members=_unread_since(siblings, webhooks.undone_at(before, after)),
    )
    appended = AppendedEvents()
    if row is None or row.digest != mirror.digest:
        appended = record_observations(database, session, [Observed(lease, reading, mirror, decision)])
        _write(session, row, mirror)
    else:
        database.run(session, _set_checked_at, connection=lease.connection_id, began_at=reading.began_at)
    return CommitResult(tuple(notified), appended.types, appended.subscriptions)


def complete_without_result(database: Database, session: Session, lease: ReadLease) -> None:
    """Complete the request for a connection that Meld does not have and that only a sibling's list names.

    Raises:
        LeaseLostError: If the lease is no longer the newest one.
    """
    _complete(database, session, lease)
    circuit_breaker.close_circuit(session)


def is_only_listed(session: Session, lease: ReadLease) -> bool:
    """Return whether only other connections name this one: no webhook did, and no read found it."""
    is_follow_up = lease.trigger in {"sibling", "recheck"} and not lease.webhooks
    return is_follow_up and session.get(ConnectionRow, lease.connection_id) is None


def find_account_id(session: Session, connection_id: str, row: ConnectionRow | None, reading: Reading) -> str:
    """Return the account id from the answer, else from the mirror, else from the newest webhook that names one."""
    if reading.snapshot is not None and reading.snapshot.account_id is not None:
        return reading.snapshot.account_id
    if row is not None:
        return row.account_id
    account_ids = select(WebhookRow.account_id).where(
        WebhookRow.connection_id == connection_id, col(WebhookRow.account_id).is_not(None)
    )
    return session.exec(account_ids.order_by(col(WebhookRow.id).desc()).limit(1)).first() or ""


def _complete(database: Database, session: Session, lease: ReadLease) -> bool:
    """Check the fencing token and complete the request. Return whether another read was requested meanwhile."""
    values = {"connection": lease.connection_id, "token": lease.token, "generation": lease.generation}
    row = database.run(session, _completion, **values).one_or_none()
    if row is None:
        raise LeaseLostError(lease.connection_id)
    return bool(row[0])


def _write(session: Session, row: ConnectionRow | None, mirror: ConnectionRow) -> None:
    if row is None:
        session.connection().execute(_INSERT, mirror.model_dump())
    else:
        session.merge(mirror)


_INSERT = insert(ConnectionRow)


def _completion(_database: Database) -> Executable:
    is_pending = col(ReadRequestRow.requested) > bindparam("generation")
    fenced = update(ReadRequestRow).where(
        col(ReadRequestRow.connection_id) == bindparam("connection"),
        col(ReadRequestRow.lease_token) == bindparam("token"),
    )
    completion = fenced.values(
        completed=bindparam("generation"),
        due_at=case((is_pending, ReadRequestRow.due_at), else_=None),
        lease_token=None,
        leased_until=None,
        attempts=0,
        failed_at=None,
        error=None,
    )
    return completion.returning(is_pending)


def _set_checked_at(_database: Database) -> Executable:
    own = update(ConnectionRow).where(col(ConnectionRow.id) == bindparam("connection"))
    return own.values(checked_at=bindparam("began_at"))


def _ended_recently(row: ConnectionRow, reading: Reading) -> bool:
    """Return whether an end was seen so recently that the read may not show it yet."""
    lag = timedelta(seconds=MAX_API_LAG_SECONDS)
    return row.status in TERMINAL_STATUSES and row.observed_at > reading.began_at - lag


def _unread_since(siblings: Iterable[ConnectionRow], undone_at: datetime | None) -> frozenset[str]:
    """Return the siblings that may not have been read since a change that was undone between two reads."""
    if undone_at is None:
        return frozenset()
    shown_at = undone_at + timedelta(seconds=MAX_API_LAG_SECONDS)
    return frozenset(row.id for row in siblings if row.status not in TERMINAL_STATUSES and row.checked_at < shown_at)


def _siblings(session: Session, ids: frozenset[str]) -> list[ConnectionRow]:
    return list(session.exec(select(ConnectionRow).where(col(ConnectionRow.id).in_(ids))).all()) if ids else []
