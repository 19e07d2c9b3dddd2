"""Append events to the feed: allocate positions in commit order, then fan out to the outbox."""

from collections.abc import Sequence

from sqlalchemy import Executable, bindparam, insert, update
from sqlmodel import Session, col

from runtime.database import Database
from schemas.message_names import FEED_CHANNEL
from schemas.tables import EventRow, FeedCounterRow
from workers.events.fan_out import fan_out

_APPEND = insert(EventRow)


def append(database: Database, session: Session, rows: Sequence[EventRow]) -> tuple[str, ...]:
    """Append events to the feed, in their order, and fan them out.

    The caller does this last in its transaction: the row lock on the feed counter makes positions grow in commit order.
    On PostgreSQL the commit also notifies the processes that listen for the feed.

    Returns:
        The subscriptions that one of the events must be delivered to.
    """
    if not rows:
        return ()
    last: int = database.run(session, _allocate_positions, count=len(rows)).scalar_one()
    for position, row in enumerate(rows, start=last - len(rows) + 1):
        row.position = position
    values = [row.model_dump() for row in rows]
    session.connection().execute(_APPEND, values)
    return fan_out(database, session, values)


def _allocate_positions(database: Database) -> Executable:
    """Allocate positions and notify the feed's listeners in one statement, which saves a round trip."""
    allocation = (
        update(FeedCounterRow)
        .where(col(FeedCounterRow.name) == "feed")
        .values(value=FeedCounterRow.value + bindparam("count"))
    )
    return allocation.returning(col(FeedCounterRow.value), database.notify_expression(FEED_CHANNEL))
