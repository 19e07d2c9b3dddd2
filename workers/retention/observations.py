"""Forget: a connection's oldest observations become its baseline and are removed, in one commit.

From the baseline on a fold is as exact as before. The newest observation always stays.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, delete
from sqlmodel import Session, col, func, or_, select

from runtime.database import Database
from runtime.queues import reads
from schemas.tables import BaselineRow, EventBaselineRow, EventRow, ObservationRow
from workers.history.projection import advanced

MOST = 100
"""Observations of one connection that one commit takes in: what keeps it short, since its webhooks wait for it."""


def forget(database: Database, session: Session, connection_id: str, before: datetime) -> int:
    """Take in what a connection's reads saw that had their answer before a time; return how many were removed.

    There may be more where it is ``MOST``. Events stay; those of what was taken in are not looked for any more, so that
    they may be removed, too.
    """
    reads.lock(database, session, [connection_id])
    baseline = session.get(BaselineRow, connection_id)
    rows = select(ObservationRow).where(*_is_old(connection_id, before)).order_by(col(ObservationRow.id))
    old = session.exec(rows.limit(MOST)).all()
    if not old:
        return 0
    after = advanced(connection_id, baseline, old, _sequence(session, connection_id, old[-1]))
    assert after is not None
    session.merge(after)
    mine = col(ObservationRow.connection_id) == connection_id
    session.exec(delete(ObservationRow).where(mine, col(ObservationRow.id) <= after.observation_id))
    return len(old)


def forgettable(session: Session, connection_id: str, before: datetime) -> int:
    """Return how many observations ``forget`` would remove, again and again."""
    old = select(func.count()).select_from(ObservationRow).where(*_is_old(connection_id, before))
    return session.exec(old).one()


def _is_old(connection_id: str, before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that an observation of a connection stands before the first one that stays."""
    mine = col(ObservationRow.connection_id) == connection_id
    newest = select(func.max(ObservationRow.id)).where(mine).scalar_subquery()
    stays = or_(col(ObservationRow.ended_at) >= before, col(ObservationRow.id) == newest)
    first = select(ObservationRow.id).where(mine, stays).order_by(col(ObservationRow.id)).limit(1).scalar_subquery()
    return mine, col(ObservationRow.id) < first


def _sequence(session: Session, connection_id: str, last: ObservationRow) -> int | None:
    """Return the highest number that the events have, or had, of all that is taken in; None where nobody knows."""
    highest = select(func.max(EventRow.sequence)).where(
        EventRow.connection_id == connection_id, col(EventRow.observation_id) <= last.id
    )
    known = session.exec(highest).one() or 0
    floor = session.get(EventBaselineRow, connection_id)
    if floor is None:
        return known
    assert last.id is not None
    return max(known, floor.sequence) if floor.observation_id <= last.id else None
