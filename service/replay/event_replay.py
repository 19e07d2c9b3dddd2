"""Resend: a step of a replay of events. They are owed to a subscription once more, all those of a connection at once.

So the events of a replay stand together on each lane, in order: behind what was owed before them, before what comes
later. They are sent as all others are, whatever the subscription's state is then.
"""

from sqlalchemy import ColumnElement, and_
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues.deliveries import hold_feed, raise_lanes
from schemas.tables import EventRow, ReplayRow, SubscriptionRow
from service.replay.selection import LOOK, selection_of
from service.replay.step import ReplayStep
from service.subscriptions.backfill import owe_past

MOST_EVENTS = 500
"""Events owed by one commit, but for a connection that has more: nothing new is appended to the feed meanwhile."""

REST_SECONDS = 0.05
"""Between two commits, so that the feed is not held for long."""


def resend(database: Database, session: Session, row: ReplayRow, most_events: int = MOST_EVENTS) -> ReplayStep:
    """Owe the events of the next connections."""
    assert row.subscription_id is not None
    selection = selection_of(session, row)
    ahead = selection.ahead(session, row.after)
    room = most_events
    taken: list[str] = []
    passed = row.after
    for connection_id, amount in ahead:
        if taken and amount > room:
            break
        passed = connection_id
        room -= amount
        if amount:
            taken.append(connection_id)
    # It is removed under the same lock.
    hold_feed(session)
    if session.exec(select(SubscriptionRow.id).where(SubscriptionRow.id == row.subscription_id)).first() is None:
        return ReplayStep(after=row.after, error="The subscription was removed.")
    # Fewer than were seen, where retention has come in between.
    count = _owe(database, session, row, taken, selection.which) if taken else 0
    is_last = len(ahead) < LOOK and (not ahead or passed == ahead[-1].connection_id)
    return ReplayStep(after=passed, count=count, is_last=is_last, rest=REST_SECONDS if taken else 0)


def _owe(database: Database, session: Session, row: ReplayRow, ids: list[str], which: ColumnElement[bool]) -> int:
    assert row.subscription_id is not None
    raise_lanes(database, session, {(row.subscription_id, id_) for id_ in ids})
    wanted = and_(col(EventRow.connection_id).in_(ids), which)
    return owe_past(database, session, row.subscription_id, wanted, replay_id=row.id)
