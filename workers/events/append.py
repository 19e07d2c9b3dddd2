"""Append events to the feed: the next positions, taken in commit order, and the fan-out to subscriptions."""

from collections.abc import Sequence

from sqlalchemy import Executable, bindparam, insert, update
from sqlmodel import Session, col

from runtime.database import Database
from schemas.message_names import FEED_CHANNEL
from schemas.tables import EventRow, FeedCounterRow
from workers.events.fan_out import owe

_APPEND = insert(EventRow)


def append(database: Database, session: Session, rows: Sequence[EventRow]) -> tuple[str, ...]:
    """Put events at the end of the feed, in their order; return the subscriptions that one of them is owed to.

    The counter is taken last, so that positions grow in commit order. Who listens for the feed hears of the commit.
    """
    if not rows:
        return ()
    last: int = database.run(session, _take_places, count=len(rows)).scalar_one()
    for position, row in enumerate(rows, start=last - len(rows) + 1):
        row.position = position
    values = [row.model_dump() for row in rows]
    session.connection().execute(_APPEND, values)
    return owe(database, session, values)


def _take_places(database: Database) -> Executable:
    """Take the next places. Who takes some tells so in the same breath: a second statement would cost a round trip."""
    taken = (
        update(FeedCounterRow)
        .where(col(FeedCounterRow.name) == "feed")
        .values(value=FeedCounterRow.value + bindparam("count"))
    )
    return taken.returning(col(FeedCounterRow.value), database.notify_expression(FEED_CHANNEL))
