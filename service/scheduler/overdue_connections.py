"""Request reads of stale connections: those that were not read for too long, and those that should have expired.

Meld may send no webhook when a connection that was never completed expires (after 4 h), and any webhook may be lost.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, func
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import reads
from schemas.meld.connection import IN_PROGRESS, TERMINAL_STATUSES
from schemas.tables import ConnectionRow, ReadRequestRow

EXPIRY_SECONDS = 4 * 3600.0
"""The time that Meld gives a customer to complete a connection."""

EXPIRY_RETRY_SECONDS = 300.0
"""How often a connection is read again that should have expired and has not."""

MAX_PER_PASS = 50
"""Connections of each kind requested at once, so that the reads of stale connections are spread over time."""


def request_stale_reads(database: Database, session: Session, *, fresh_seconds: float) -> list[str]:
    """Request reads of stale connections; return the connections whose workers to notify after the commit.

    Args:
        database: The database.
        session: An open transaction that writes.
        fresh_seconds: The maximum age of the last read of a live connection; 0 turns this off.
    """
    expired = _find_idle(
        session,
        col(ConnectionRow.status) == IN_PROGRESS,
        # Meld need not report the creation time; the first read is later than that.
        func.coalesce(ConnectionRow.created_at, ConnectionRow.observed_at) < database.now(-EXPIRY_SECONDS),
        col(ConnectionRow.checked_at) < database.now(-EXPIRY_RETRY_SECONDS),
    )
    stale: Collection[str] = ()
    if fresh_seconds:
        is_old = col(ConnectionRow.checked_at) < database.now(-fresh_seconds)
        stale = _find_idle(session, is_old, col(ConnectionRow.status).not_in(TERMINAL_STATUSES))
    return reads.request_reads(database, session, {*expired, *stale}, "clock")


def _find_idle(session: Session, *conditions: ColumnElement[bool]) -> list[str]:
    """Return connections without a pending read. So a connection whose reads keep failing is not requested again."""
    idle = (
        select(ConnectionRow.id)
        .join(ReadRequestRow, col(ReadRequestRow.connection_id) == col(ConnectionRow.id))
        .where(~reads.is_pending(), *conditions)
        .order_by(col(ConnectionRow.checked_at))
    )
    return list(session.exec(idle.limit(MAX_PER_PASS)).all())
