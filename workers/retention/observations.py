"""Retention of observations: moves a connection's oldest observations into its baseline (snapshot) and removes them.

Both happen in one commit. A projection that starts from the baseline has the same result as before. The newest
observation is always kept.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, delete
from sqlmodel import Session, col, func, or_, select

from runtime.database import Database
from runtime.queues import reads
from schemas.tables import BaselineRow, EventBaselineRow, EventRow, ObservationRow
from workers.history.projection import advance_baseline

MAX_OBSERVATIONS = 100
"""Observations that one commit removes: a bound on its duration, since the connection's webhooks wait for it."""


def remove_old_observations(database: Database, session: Session, connection_id: str, before: datetime) -> int:
    """Remove a connection's oldest observations that ended before a time; return how many. 0: none is left.

    Events are kept. The consistency check no longer requires the events of removed observations.
    """
    reads.lock_requests(database, session, [connection_id])
    baseline = session.get(BaselineRow, connection_id)
    expired = select(ObservationRow).where(*_is_expired(connection_id, before)).order_by(col(ObservationRow.id))
    rows = session.exec(expired.limit(MAX_OBSERVATIONS)).all()
    if not rows:
        return 0
    sequence = _find_last_sequence(session, connection_id, rows[-1])
    advanced = advance_baseline(connection_id, baseline, rows, sequence)
    assert advanced is not None
    session.merge(advanced)
    mine = col(ObservationRow.connection_id) == connection_id
    session.exec(delete(ObservationRow).where(mine, col(ObservationRow.id) <= advanced.observation_id))
    return len(rows)


def count_removable_observations(session: Session, connection_id: str, before: datetime) -> int:
    """Return how many observations repeated calls of ``remove_old_observations`` would remove."""
    count = select(func.count()).select_from(ObservationRow).where(*_is_expired(connection_id, before))
    return session.exec(count).one()


def _is_expired(connection_id: str, before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that an observation is one of the connection's, before its first one that is kept."""
    mine = col(ObservationRow.connection_id) == connection_id
    newest = select(func.max(ObservationRow.id)).where(mine).scalar_subquery()
    is_kept = or_(col(ObservationRow.ended_at) >= before, col(ObservationRow.id) == newest)
    first_kept = select(ObservationRow.id).where(mine, is_kept).order_by(col(ObservationRow.id)).limit(1)
    return mine, col(ObservationRow.id) < first_kept.scalar_subquery()


def _find_last_sequence(session: Session, connection_id: str, last: ObservationRow) -> int | None:
    """Return the highest sequence of the events up to an observation, removed ones included; None if it is unknown."""
    highest = select(func.max(EventRow.sequence)).where(
        EventRow.connection_id == connection_id, col(EventRow.observation_id) <= last.id
    )
    stored = session.exec(highest).one() or 0
    event_baseline = session.get(EventBaselineRow, connection_id)
    if event_baseline is None:
        return stored
    assert last.id is not None
    return max(stored, event_baseline.sequence) if event_baseline.observation_id <= last.id else None
