"""Drop: a connection's oldest events leave the feed, in one commit that notes where those that are left begin.

An event that is owed to a subscription stays, and so does everything that its connection told after it: what is left of
a connection's events has no gap. Whether their observations are still there makes no difference to a fold.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import delete
from sqlmodel import Session, col, or_, select

from runtime.database import Database
from runtime.queues import reads
from runtime.queues.deliveries import hold_feed
from schemas.tables import DeliveryRow, EventBaselineRow, EventRow
from workers.history.consistency import rebuilt_at
from workers.retention.cutoffs import Bounds

MOST = 100
"""Events of one connection that one commit removes: what keeps it short, since the feed waits for it."""


def drop(database: Database, session: Session, connection_id: str, bounds: Bounds) -> int:
    """Remove a connection's oldest events; return how many. There may be more where there were any."""
    reads.lock(database, session, [connection_id])
    rows = _oldest(session, connection_id, is_locked=True)
    # Who owes an event of the past to somebody holds it, too: what is not owed now will not be.
    hold_feed(session)
    gone = _needless(session, rows, bounds)
    if not gone:
        return 0
    floor = session.get(EventBaselineRow, connection_id)
    sequence = max(floor.sequence if floor is not None else 0, *(row.sequence for row in gone))
    session.merge(
        EventBaselineRow(connection_id=connection_id, observation_id=gone[-1].observation_id, sequence=sequence)
    )
    session.exec(delete(EventRow).where(col(EventRow.position).in_([row.position for row in gone])))
    return len(gone)


def droppable(session: Session, connection_id: str, bounds: Bounds) -> int:
    """Return how many events ``drop`` would remove, again and again."""
    total, after = 0, 0
    while gone := _needless(session, _oldest(session, connection_id, after=after), bounds):
        total, after = total + len(gone), gone[-1].observation_id
    return total


def _oldest(session: Session, connection_id: str, *, after: int = 0, is_locked: bool = False) -> Sequence[EventRow]:
    """Return the first events of a connection behind an observation; one more than ``MOST``, where there are more."""
    rows = select(EventRow).where(EventRow.connection_id == connection_id, col(EventRow.observation_id) > after)
    rows = rows.order_by(col(EventRow.observation_id), col(EventRow.position)).limit(MOST + 1)
    return session.exec(rows.with_for_update() if is_locked else rows).all()


def _needless(session: Session, rows: Sequence[EventRow], bounds: Bounds) -> list[EventRow]:
    """Return those that stand before the first one that stays. Events of one observation go together."""
    owed = _owed(session, rows, bounds)
    stays = next((row.observation_id for row in rows if row.id in owed or _told_at(row) >= bounds.events), None)
    if stays is None and len(rows) > MOST:
        stays = rows[-1].observation_id
    return [row for row in rows if stays is None or row.observation_id < stays]


def _owed(session: Session, rows: Sequence[EventRow], bounds: Bounds) -> set[str]:
    """Return the ids of those that somebody waits for; also where they were given up, so long as that is kept."""
    waits = or_(col(DeliveryRow.dead_at).is_(None), col(DeliveryRow.dead_at) >= bounds.failures)
    owed = select(DeliveryRow.event_id).where(
        col(DeliveryRow.event_id).in_([row.id for row in rows]), col(DeliveryRow.delivered_at).is_(None), waits
    )
    return set(session.exec(owed).all())


def _told_at(row: EventRow) -> datetime:
    """Return when an event came into the feed: one that a rebuild appended did so long after its time."""
    with suppress(TypeError, ValueError):
        return max(row.time, datetime.fromisoformat(rebuilt_at(row)))
    return row.time
