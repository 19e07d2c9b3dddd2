"""Forget: a connection's oldest observations become its baseline and are removed, in one commit.

From the baseline on a fold is as exact as before. The newest observation always stays.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, delete
from sqlmodel import Session, col, func, or_, select

from runtime import jobs
from runtime.database import Database
from schemas.tables import Baseline, Event, Floor, Observation
from workers.fold import advanced

MOST = 100
"""Observations of one connection that one commit takes in: what keeps it short, since its webhooks wait for it."""


def forget(database: Database, session: Session, connection_id: str, before: datetime) -> int:
    """Take in what a connection's reads saw that had their answer before a time; return how many were removed.

    There may be more where it is ``MOST``. Events stay; those of what was taken in are not looked for any more, so that
    they may be removed, too.
    """
    jobs.lock(database, session, [connection_id])
    baseline = session.get(Baseline, connection_id)
    rows = select(Observation).where(*_is_old(connection_id, before)).order_by(col(Observation.id))
    old = session.exec(rows.limit(MOST)).all()
    if not old:
        return 0
    after = advanced(connection_id, baseline, old, _sequence(session, connection_id, old[-1]))
    assert after is not None
    session.merge(after)
    mine = col(Observation.connection_id) == connection_id
    session.exec(delete(Observation).where(mine, col(Observation.id) <= after.observation_id))
    return len(old)


def forgettable(session: Session, connection_id: str, before: datetime) -> int:
    """Return how many observations ``forget`` would remove, again and again."""
    old = select(func.count()).select_from(Observation).where(*_is_old(connection_id, before))
    return session.exec(old).one()


def _is_old(connection_id: str, before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that an observation of a connection stands before the first one that stays."""
    mine = col(Observation.connection_id) == connection_id
    newest = select(func.max(Observation.id)).where(mine).scalar_subquery()
    stays = or_(col(Observation.ended_at) >= before, col(Observation.id) == newest)
    first = select(Observation.id).where(mine, stays).order_by(col(Observation.id)).limit(1).scalar_subquery()
    return mine, col(Observation.id) < first


def _sequence(session: Session, connection_id: str, last: Observation) -> int | None:
    """Return the highest number that the events have, or had, of all that is taken in; None where nobody knows."""
    highest = select(func.max(Event.sequence)).where(
        Event.connection_id == connection_id, col(Event.observation_id) <= last.id
    )
    known = session.exec(highest).one() or 0
    floor = session.get(Floor, connection_id)
    if floor is None:
        return known
    assert last.id is not None
    return max(known, floor.sequence) if floor.observation_id <= last.id else None
