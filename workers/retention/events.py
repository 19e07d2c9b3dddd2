"""Retention of events: removes a connection's oldest events from the feed and moves its event baseline, in one commit.

An event with a pending delivery is kept, and with it all later events of its connection: the kept events of a
connection have no gap. The projection does not need the events, so their observations may be removed before or after.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import delete
from sqlmodel import Session, col, or_, select

from runtime.database import Database
from runtime.queues import reads
from runtime.queues.deliveries import lock_feed
from schemas.tables import DeliveryRow, EventBaselineRow, EventRow
from workers.history.consistency import rebuilt_at
from workers.retention.cutoffs import Cutoffs

MAX_EVENTS = 100
"""Events that one commit removes: a bound on its duration, since it holds the feed's lock."""


def remove_old_events(database: Database, session: Session, connection_id: str, cutoffs: Cutoffs) -> int:
    """Remove a connection's oldest expired events; return how many. Call it again until it returns 0."""
    reads.lock_requests(database, session, [connection_id])
    rows = _oldest(session, connection_id, is_locked=True)
    # A replay of past events holds this lock too: an event without a pending delivery gets none meanwhile.
    lock_feed(session)
    expired = _select_expired(session, rows, cutoffs)
    if not expired:
        return 0
    baseline = session.get(EventBaselineRow, connection_id)
    sequence = max(baseline.sequence if baseline is not None else 0, *(row.sequence for row in expired))
    session.merge(
        EventBaselineRow(connection_id=connection_id, observation_id=expired[-1].observation_id, sequence=sequence)
    )
    session.exec(delete(EventRow).where(col(EventRow.position).in_([row.position for row in expired])))
    return len(expired)


def count_removable_events(session: Session, connection_id: str, cutoffs: Cutoffs) -> int:
    """Return how many events repeated calls of ``remove_old_events`` would remove."""
    total, after = 0, 0
    while expired := _select_expired(session, _oldest(session, connection_id, after=after), cutoffs):
        total, after = total + len(expired), expired[-1].observation_id
    return total


def _oldest(session: Session, connection_id: str, *, after: int = 0, is_locked: bool = False) -> Sequence[EventRow]:
    """Return a connection's first events after an observation: ``MAX_EVENTS`` and the one after them."""
    rows = select(EventRow).where(EventRow.connection_id == connection_id, col(EventRow.observation_id) > after)
    rows = rows.order_by(col(EventRow.observation_id), col(EventRow.position)).limit(MAX_EVENTS + 1)
    return session.exec(rows.with_for_update() if is_locked else rows).all()


def _select_expired(session: Session, rows: Sequence[EventRow], cutoffs: Cutoffs) -> list[EventRow]:
    """Return the events before the first one that is kept. Events of one observation are removed together."""
    undelivered = _find_undelivered(session, rows, cutoffs)
    kept = (row.observation_id for row in rows if row.id in undelivered or _appended_at(row) >= cutoffs.events)
    first_kept = next(kept, None)
    if first_kept is None and len(rows) > MAX_EVENTS:
        first_kept = rows[-1].observation_id
    return [row for row in rows if first_kept is None or row.observation_id < first_kept]


def _find_undelivered(session: Session, rows: Sequence[EventRow], cutoffs: Cutoffs) -> set[str]:
    """Return the ids of events that have a pending delivery, or a dead one that is still kept."""
    is_kept = or_(col(DeliveryRow.dead_at).is_(None), col(DeliveryRow.dead_at) >= cutoffs.failures)
    undelivered = select(DeliveryRow.event_id).where(
        col(DeliveryRow.event_id).in_([row.id for row in rows]), col(DeliveryRow.delivered_at).is_(None), is_kept
    )
    return set(session.exec(undelivered).all())


def _appended_at(row: EventRow) -> datetime:
    """Return when an event was appended to the feed: a rebuild appends it long after the event's own time."""
    with suppress(TypeError, ValueError):
        return max(row.time, datetime.fromisoformat(rebuilt_at(row)))
    return row.time
