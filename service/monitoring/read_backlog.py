"""Backlog of reads of Meld: how many are due and not leased, and how long the oldest has waited."""

from dataclasses import dataclass

from sqlalchemy import func
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import reads
from schemas.tables import ReadRequestRow


@dataclass(frozen=True, slots=True)
class ReadBacklog:
    """The number of due reads, and for how many seconds the oldest has been due."""

    due: int
    oldest_seconds: float


def measure(database: Database, session: Session) -> ReadBacklog:
    """Return the backlog."""
    count = session.exec(select(func.count()).select_from(ReadRequestRow).where(reads.is_ready(database))).one()
    return ReadBacklog(due=count, oldest_seconds=oldest_seconds(database, session))


def oldest_seconds(database: Database, session: Session) -> float:
    """Return for how many seconds the oldest read has been due; 0 if none is due."""
    oldest = (
        select(ReadRequestRow.due_at, database.now())
        .where(reads.is_ready(database))
        .order_by(col(ReadRequestRow.due_at))
        .limit(1)
    )
    row = session.exec(oldest).one_or_none()
    if row is None or row[0] is None:
        return 0.0
    return max((row[1] - row[0]).total_seconds(), 0.0)
