"""Backlog: the reads of Meld that are owed by now and that nobody is at, as readiness and the gauges see them."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.tables import ReadRequestRow


@dataclass(frozen=True, slots=True)
class ReadBacklog:
    """How much is due, and for how many seconds the oldest of it has been."""

    jobs: int
    oldest_seconds: float


def measure(database: Database, session: Session) -> ReadBacklog:
    """Count what is due."""
    count = session.exec(select(func.count()).select_from(ReadRequestRow).where(_is_due(database))).one()
    return ReadBacklog(jobs=count, oldest_seconds=oldest_seconds(database, session))


def oldest_seconds(database: Database, session: Session) -> float:
    """Return for how long the oldest job has been due; 0 where none is."""
    oldest = (
        select(ReadRequestRow.due_at, database.now())
        .where(_is_due(database))
        .order_by(col(ReadRequestRow.due_at))
        .limit(1)
    )
    row = session.exec(oldest).one_or_none()
    if row is None or row[0] is None:
        return 0.0
    return max((row[1] - row[0]).total_seconds(), 0.0)


def _is_due(database: Database) -> ColumnElement[bool]:
    return and_(
        col(ReadRequestRow.requested) > col(ReadRequestRow.completed),
        col(ReadRequestRow.due_at) <= database.now(),
        or_(col(ReadRequestRow.leased_until).is_(None), col(ReadRequestRow.leased_until) < database.now()),
    )
