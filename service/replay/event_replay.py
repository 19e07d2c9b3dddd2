"""Event replay: one step appends stored events to the outbox of a subscription again, connection by connection.

One commit appends all selected events of a connection. So in each delivery queue the events of a replay stand together,
in order: behind the earlier deliveries, before the later ones. They are pushed like all other deliveries, in whatever
state the subscription is then.
"""

from sqlalchemy import ColumnElement, and_
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues.deliveries import lock_feed, mark_queues_due
from schemas.tables import EventRow, ReplayRow, SubscriptionRow
from service.replay.selection import SCAN_SIZE, make_selection
from service.replay.step import ReplayStep
from service.subscriptions.backfill import append_past_deliveries

MAX_EVENTS = 500
"""Events appended by one commit, unless one connection has more: the feed is locked meanwhile."""

DELAY_SECONDS = 0.05
"""The time between two commits, so that other transactions can append to the feed."""


def append_next_deliveries(
    database: Database, session: Session, row: ReplayRow, max_events: int = MAX_EVENTS
) -> ReplayStep:
    """Append the deliveries of the next connections of a replay."""
    assert row.subscription_id is not None
    selection = make_selection(session, row)
    scanned = selection.scan(session, row.after)
    room = max_events
    chosen: list[str] = []
    cursor = row.after
    for connection_id, count in scanned:
        if chosen and count > room:
            break
        cursor = connection_id
        room -= count
        if count:
            chosen.append(connection_id)
    # A subscription is deleted under the same lock.
    lock_feed(session)
    if session.exec(select(SubscriptionRow.id).where(SubscriptionRow.id == row.subscription_id)).first() is None:
        return ReplayStep(after=row.after, error="The subscription was removed.")
    # Retention may have deleted events since the scan: the count is of those that were appended.
    appended = _append(database, session, row, chosen, selection.condition) if chosen else 0
    is_last = len(scanned) < SCAN_SIZE and (not scanned or cursor == scanned[-1].connection_id)
    return ReplayStep(after=cursor, count=appended, is_last=is_last, delay_seconds=DELAY_SECONDS if chosen else 0)


def _append(
    database: Database, session: Session, row: ReplayRow, connection_ids: list[str], condition: ColumnElement[bool]
) -> int:
    assert row.subscription_id is not None
    mark_queues_due(database, session, {(row.subscription_id, id_) for id_ in connection_ids})
    wanted = and_(col(EventRow.connection_id).in_(connection_ids), condition)
    return append_past_deliveries(database, session, row.subscription_id, wanted, replay_id=row.id)
