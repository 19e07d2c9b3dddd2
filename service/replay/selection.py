"""Selection: what of the past a replay is about, connection by connection, in the order of their ids.

Looked at some connections at a time, each by an index, however much is stored: no statement takes long.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, exists, func, literal, select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col
from sqlmodel import select as select_row

from runtime.database import Database
from schemas.replays import EventFilter, ReplayFilter, ReplayKind, Resent, WebhookFilter
from schemas.tables import EventRow, ReplayRow, SubscriptionRow, WebhookRow
from service.feed.notifier import position
from service.ingest.webhook_state import in_state

LOOK = 200
"""Connections looked at by one statement."""


class Selected(NamedTuple):
    """A connection, and how much of it is selected: 1 where its webhooks are, of events how many."""

    connection_id: str
    amount: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What a replay is about.

    Attributes:
        table: Where it is stored.
        which: The condition on its rows.
        is_narrow: Whether that names one connection, so that no other need be looked at.
    """

    table: type[WebhookRow] | type[EventRow]
    which: ColumnElement[bool]
    is_narrow: bool

    def ahead(self, session: Session, after: str, look: int = LOOK) -> list[Selected]:
        """Return the next connections behind an id; of those of which nothing is selected the amount is 0.

        Fewer than ``look`` are the last ones.
        """
        statement = self._within(after, look) if self.is_narrow else self._walk(after, look)
        return [Selected(*row) for row in session.connection().execute(statement)]

    def chunks(self, database: Database) -> Iterator[list[Selected]]:
        """Yield the connections of which something is selected, some at a time. No transaction is open in between."""
        after: str | None = ""
        while after is not None:
            with database.read() as session:
                ahead = self.ahead(session, after)
            yield [each for each in ahead if each.amount]
            after = ahead[-1].connection_id if len(ahead) == LOOK else None

    def _within(self, after: str, look: int) -> Select[*tuple[Any, ...]]:
        ids = col(self.table.connection_id)
        count = func.count() if self.table is EventRow else literal(1)
        return select(ids, count).where(ids > after, self.which).group_by(ids).order_by(ids).limit(look)

    def _walk(self, after: str, look: int) -> Select[*tuple[Any, ...]]:
        """Go from one connection to the next by the index, past all rows that each has."""
        ids = col(self.table.connection_id)
        first = select(func.min(ids).label("id"), literal(1).label("number")).where(ids > after)
        walk = first.cte("walk", recursive=True)
        following = col(aliased(self.table).connection_id)
        next_id = select(func.min(following)).where(following > walk.c.id).scalar_subquery()
        is_more = and_(walk.c.id.is_not(None), walk.c.number < look)
        walk = walk.union_all(select(next_id, walk.c.number + 1).where(is_more))
        mine = and_(ids == walk.c.id, self.which)
        count = select(func.count()).select_from(self.table).where(mine).scalar_subquery()
        # Of webhooks one is enough, however many there are.
        counted: Any = count if self.table is EventRow else exists().select_from(self.table).where(mine)
        return select(walk.c.id, counted).where(walk.c.id.is_not(None)).order_by(walk.c.number)


def selection_of(session: Session, row: ReplayRow) -> Selection:
    """Return what a replay is about, as its subscription is now."""
    if row.kind == "events":
        types = session.exec(select_row(SubscriptionRow.types).where(SubscriptionRow.id == row.subscription_id)).first()
        return of_events(EventFilter.model_validate(row.filter), newest=row.newest, types=types or ())
    return of_webhooks(WebhookFilter.model_validate(row.filter), newest=row.newest)


def of_webhooks(wish: WebhookFilter, *, newest: int) -> Selection:
    """Return the selection of webhooks that came up to the ``newest``; those that name no connection are not in it."""
    which = [col(WebhookRow.id) <= newest]
    which += _same(WebhookRow, event_id=wish.event_id, connection_id=wish.connection, type=wish.type)
    which += _while(col(WebhookRow.received_at), wish)
    which += [in_state(wish.state)] if wish.state is not None else []
    is_narrow = wish.event_id is not None or wish.connection is not None
    return Selection(WebhookRow, and_(*which), is_narrow)


def of_events(wish: EventFilter, *, newest: int, types: Collection[str]) -> Selection:
    """Return the selection of events up to the position ``newest``, of a subscription that wants these types.

    None are all. One that is asked for is sent, whatever the subscription wants.
    """
    until = newest if wish.until_position is None else min(wish.until_position, newest)
    which = [col(EventRow.position) > (wish.after or 0), col(EventRow.position) <= until]
    which += _same(EventRow, connection_id=wish.connection, type=wish.type)
    which += [col(EventRow.type).in_(types)] if types and wish.type is None else []
    which += _while(col(EventRow.time), wish)
    return Selection(EventRow, and_(*which), wish.connection is not None)


def newest(session: Session, kind: ReplayKind) -> int:
    """Return the last webhook, or the last position of the feed, that there is."""
    if kind == "events":
        return position(session)
    return session.exec(select_row(func.max(WebhookRow.id))).one() or 0


def resent(session: Session, selection: Selection, ids: Collection[str]) -> list[Resent]:
    """Return how many events of each of these connections are selected, by their types."""
    keys = (col(EventRow.connection_id), col(EventRow.type))
    count, first, last = func.count(), func.min(EventRow.position), func.max(EventRow.position)
    columns = [*keys, count.label("events"), first.label("first_position"), last.label("last_position")]
    mine = select(*columns).where(keys[0].in_(ids), selection.which).group_by(*keys).order_by(*keys)
    return [Resent.model_validate(row._asdict()) for row in session.connection().execute(mine)]


def _same(table: type[WebhookRow] | type[EventRow], **values: str | None) -> list[ColumnElement[bool]]:
    return [getattr(table, name) == value for name, value in values.items() if value is not None]


def _while(column: Any, wish: ReplayFilter) -> list[ColumnElement[bool]]:  # noqa: ANN401 - a column of either table
    since = [column >= wish.since] if wish.since is not None else []
    return [*since, column < wish.until] if wish.until is not None else since
