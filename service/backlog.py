"""Backlog: the reads of Meld that are owed by now and that nobody is at, as readiness and the gauges see them."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.tables import Job


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much is due, and for how many seconds the oldest of it has been."""

    jobs: int
    oldest_seconds: float


def measure(database: Database, session: Session) -> Backlog:
    """Count what is due."""
    count = session.exec(select(func.count()).select_from(Job).where(_is_due(database))).one()
    return Backlog(jobs=count, oldest_seconds=oldest_seconds(database, session))


def oldest_seconds(database: Database, session: Session) -> float:
    """Return for how long the oldest job has been due; 0 where none is."""
    oldest = select(Job.due_at, database.now()).where(_is_due(database)).order_by(col(Job.due_at)).limit(1)
    row = session.exec(oldest).one_or_none()
    if row is None or row[0] is None:
        return 0.0
    return max((row[1] - row[0]).total_seconds(), 0.0)


def _is_due(database: Database) -> ColumnElement[bool]:
    return and_(
        col(Job.requested) > col(Job.completed),
        col(Job.due_at) <= database.now(),
        or_(col(Job.leased_until).is_(None), col(Job.leased_until) < database.now()),
    )
