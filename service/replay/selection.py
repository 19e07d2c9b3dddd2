"""Selection of a replay: which stored webhooks or events it covers, connection by connection, ordered by id.

A query scans a bounded number of connections, each by an index. So every statement is short, however much is stored.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, exists, func, literal, select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col
from sqlmodel import select as select_row

from runtime.database import Database
from schemas.replays import EventFilter, ReplayFilter, ReplayKind, ResendPreview, WebhookFilter
from schemas.tables import EventRow, ReplayRow, SubscriptionRow, WebhookRow
from service.feed.notifier import last_position
from service.ingest.webhook_state import in_state

SCAN_SIZE = 200
"""Connections that one statement scans."""


class ScannedConnection(NamedTuple):
    """A connection, and the number of its selected events; of webhooks, 1 if any is selected."""

    connection_id: str
    matches: int


@dataclass(frozen=True, slots=True)
class ReplaySelection:
    """The rows that a replay covers.

    Attributes:
        table: Their table.
        condition: The condition on a row.
        is_one_connection: Whether the condition names one connection, so that the query need not scan others.
    """

    table: type[WebhookRow] | type[EventRow]
    condition: ColumnElement[bool]
    is_one_connection: bool

    def scan(self, session: Session, after: str, size: int = SCAN_SIZE) -> list[ScannedConnection]:
        """Return the next connections behind a cursor, also those without selected rows; their count is 0.

        Fewer than ``size`` are the last ones.
        """
        statement = self._select_matching(after, size) if self.is_one_connection else self._scan_index(after, size)
        return [ScannedConnection(*row) for row in session.connection().execute(statement)]

    def batches(self, database: Database) -> Iterator[list[ScannedConnection]]:
        """Yield the connections with selected rows, in batches. No transaction is open between two batches."""
        after: str | None = ""
        while after is not None:
            with database.read() as session:
                scanned = self.scan(session, after)
            yield [each for each in scanned if each.matches]
            after = scanned[-1].connection_id if len(scanned) == SCAN_SIZE else None

    def _select_matching(self, after: str, size: int) -> Select[*tuple[Any, ...]]:
        ids = col(self.table.connection_id)
        count = func.count() if self.table is EventRow else literal(1)
        return select(ids, count).where(ids > after, self.condition).group_by(ids).order_by(ids).limit(size)

    def _scan_index(self, after: str, size: int) -> Select[*tuple[Any, ...]]:
        """Return a loose index scan: from one connection to the next, past all rows that each has."""
        ids = col(self.table.connection_id)
        first = select(func.min(ids).label("id"), literal(1).label("number")).where(ids > after)
        walk = first.cte("walk", recursive=True)
        following = col(aliased(self.table).connection_id)
        next_id = select(func.min(following)).where(following > walk.c.id).scalar_subquery()
        has_next = and_(walk.c.id.is_not(None), walk.c.number < size)
        walk = walk.union_all(select(next_id, walk.c.number + 1).where(has_next))
        mine = and_(ids == walk.c.id, self.condition)
        count = select(func.count()).select_from(self.table).where(mine).scalar_subquery()
        # One webhook is enough to read the connection, however many match.
        counted: Any = count if self.table is EventRow else exists().select_from(self.table).where(mine)
        return select(walk.c.id, counted).where(walk.c.id.is_not(None)).order_by(walk.c.number)


def make_selection(session: Session, row: ReplayRow) -> ReplaySelection:
    """Return the selection of a replay, with the present types of its subscription."""
    if row.kind == "events":
        types = session.exec(select_row(SubscriptionRow.types).where(SubscriptionRow.id == row.subscription_id)).first()
        return select_events(EventFilter.model_validate(row.filter), newest=row.newest, types=types or ())
    return select_webhooks(WebhookFilter.model_validate(row.filter), newest=row.newest)


def select_webhooks(wanted: WebhookFilter, *, newest: int) -> ReplaySelection:
    """Return the selection of webhooks up to the id ``newest``. It never covers webhooks that name no connection."""
    conditions = [col(WebhookRow.id) <= newest]
    conditions += _equal(WebhookRow, event_id=wanted.event_id, connection_id=wanted.connection, type=wanted.type)
    conditions += _between(col(WebhookRow.received_at), wanted)
    conditions += [in_state(wanted.state)] if wanted.state is not None else []
    is_one_connection = wanted.event_id is not None or wanted.connection is not None
    return ReplaySelection(WebhookRow, and_(*conditions), is_one_connection)


def select_events(wanted: EventFilter, *, newest: int, types: Collection[str]) -> ReplaySelection:
    """Return the selection of events up to the position ``newest``.

    Args:
        wanted: The filter. A type that it names is selected even if the subscription does not want that type.
        newest: The last position of the feed when the replay was created.
        types: The types that the subscription wants; none means all.
    """
    until = newest if wanted.until_position is None else min(wanted.until_position, newest)
    conditions = [col(EventRow.position) > (wanted.after or 0), col(EventRow.position) <= until]
    conditions += _equal(EventRow, connection_id=wanted.connection, type=wanted.type)
    conditions += [col(EventRow.type).in_(types)] if types and wanted.type is None else []
    conditions += _between(col(EventRow.time), wanted)
    return ReplaySelection(EventRow, and_(*conditions), wanted.connection is not None)


def get_newest(session: Session, kind: ReplayKind) -> int:
    """Return the id of the last stored webhook, or the last position of the feed. A replay covers rows up to it."""
    if kind == "events":
        return last_position(session)
    return session.exec(select_row(func.max(WebhookRow.id))).one() or 0


def preview_resend(session: Session, selection: ReplaySelection, ids: Collection[str]) -> list[ResendPreview]:
    """Return how many events of each of these connections are selected, by their types (dry run)."""
    keys = (col(EventRow.connection_id), col(EventRow.type))
    count, first, last = func.count(), func.min(EventRow.position), func.max(EventRow.position)
    columns = [*keys, count.label("events"), first.label("first_position"), last.label("last_position")]
    mine = select(*columns).where(keys[0].in_(ids), selection.condition).group_by(*keys).order_by(*keys)
    return [ResendPreview.model_validate(row._asdict()) for row in session.connection().execute(mine)]


def _equal(table: type[WebhookRow] | type[EventRow], **values: str | None) -> list[ColumnElement[bool]]:
    return [getattr(table, name) == value for name, value in values.items() if value is not None]


def _between(column: Any, wanted: ReplayFilter) -> list[ColumnElement[bool]]:  # noqa: ANN401 - a column of either table
    since = [column >= wanted.since] if wanted.since is not None else []
    return [*since, column < wanted.until] if wanted.until is not None else since
