"""Forget: a connection's oldest observations become its baseline and are removed, in one commit.

From the baseline on a fold is as exact as before. The newest observation always stays.
"""

from datetime import datetime
from itertools import takewhile

from sqlalchemy import delete
from sqlmodel import Session, col, func, select

from runtime import jobs
from runtime.database import Database
from schemas.tables import Baseline, Event, Observation
from workers.fold import advanced

MOST = 500
"""Observations of one connection that one commit takes in: what keeps it short."""


def forget(database: Database, session: Session, connection_id: str, before: datetime) -> int:
    """Take in what a connection's reads saw that had their answer before a time; return how many were removed.

    There may be more where it is ``MOST``. Events stay; those of what was taken in are not looked for any more, so that
    they may be removed, too.
    """
    jobs.lock(database, session, [connection_id])
    baseline = session.get(Baseline, connection_id)
    old = _oldest(session, connection_id, before)
    if not old:
        return 0
    after = advanced(connection_id, baseline, old, _sequence(session, connection_id, old[-1]))
    assert after is not None
    session.merge(after)
    mine = col(Observation.connection_id) == connection_id
    session.exec(delete(Observation).where(mine, col(Observation.id) <= after.observation_id))
    return len(old)


def _oldest(session: Session, connection_id: str, before: datetime) -> list[Observation]:
    mine = select(Observation).where(Observation.connection_id == connection_id).order_by(col(Observation.id))
    newest = select(func.max(Observation.id)).where(Observation.connection_id == connection_id).scalar_subquery()
    rows = session.exec(mine.where(col(Observation.id) < newest).limit(MOST)).all()
    return list(takewhile(lambda row: row.ended_at < before, rows))


def _sequence(session: Session, connection_id: str, last: Observation) -> int:
    """Return the highest number that the events have of all that is taken in."""
    highest = select(func.max(Event.sequence)).where(
        Event.connection_id == connection_id, col(Event.observation_id) <= last.id
    )
    return session.exec(highest).one() or 0
