"""Overdue: connections that must be read again because too much time has passed, though nobody said anything.

Meld may send nothing when a connection that was never completed expires (after 4 h); and any webhook may be lost.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, func
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import reads
from schemas.meld.connection import IN_PROGRESS, TERMINAL
from schemas.tables import ConnectionRow, ReadRequestRow

EXPIRY_SECONDS = 4 * 3600.0
"""How long Meld leaves a customer to complete a connection."""

EXPIRY_AGAIN_SECONDS = 300.0
"""How often one is read again that should have expired and has not."""

MOST_AT_ONCE = 50
"""Connections raised in one look, so that what is overdue is read spread out over time."""


def raise_overdue(database: Database, session: Session, *, fresh_seconds: float) -> list[str]:
    """Ask for reads of what is overdue; return the connections whose workers should be called after the commit.

    Args:
        database: The database.
        session: An open transaction that writes.
        fresh_seconds: How old the last read of a living connection may be; 0 turns it off.
    """
    expired = _idle(
        session,
        col(ConnectionRow.status) == IN_PROGRESS,
        # Meld need not say when it was made; when it was first seen so comes later.
        func.coalesce(ConnectionRow.created_at, ConnectionRow.observed_at) < database.now(-EXPIRY_SECONDS),
        col(ConnectionRow.checked_at) < database.now(-EXPIRY_AGAIN_SECONDS),
    )
    stale: Collection[str] = ()
    if fresh_seconds:
        is_old = col(ConnectionRow.checked_at) < database.now(-fresh_seconds)
        stale = _idle(session, is_old, col(ConnectionRow.status).not_in(TERMINAL))
    return reads.raise_jobs(database, session, {*expired, *stale}, "clock")


def _idle(session: Session, *conditions: ColumnElement[bool]) -> list[str]:
    """Return connections that owe nothing: one whose read keeps failing is not asked for again and again."""
    statement = (
        select(ConnectionRow.id)
        .join(ReadRequestRow, col(ReadRequestRow.connection_id) == col(ConnectionRow.id))
        .where(col(ReadRequestRow.requested) == col(ReadRequestRow.completed), *conditions)
        .order_by(col(ConnectionRow.checked_at))
    )
    return list(session.exec(statement.limit(MOST_AT_ONCE)).all())
