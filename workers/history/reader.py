"""History reader: streams baseline, mirror, observations and events of many connections, side by side, in one pass."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Mapped
from sqlmodel import Session, SQLModel, col, select
from sqlmodel.sql.expression import SelectOfScalar

from schemas.tables import BaselineRow, ConnectionRow, EventBaselineRow, EventRow, ObservationRow
from workers.history.consistency import ConnectionHistory

FETCH_ROWS = 100
"""Rows of each table that are in memory at a time."""

R = TypeVar("R", bound=SQLModel)
ConnectionFilter = Callable[[Mapped[str]], ColumnElement[bool]]
"""Returns the condition that selects connections by the column that holds their id."""


def find_chunk_end(session: Session, after: str, size: int) -> str | None:
    """Return the last id of the chunk of ``size`` connections after an id; None if it is the last chunk."""
    ids = select(ConnectionRow.id).where(col(ConnectionRow.id) > after).order_by(col(ConnectionRow.id))
    return session.exec(ids.offset(size - 1).limit(1)).first()


def connections_between(after: str, until: str | None) -> ConnectionFilter:
    """Select the connections after one id, up to and including another; None: to the end."""
    return lambda ids: ids > after if until is None else (ids > after) & (ids <= until)


def only_connection(connection_id: str) -> ConnectionFilter:
    """Select one connection."""
    return lambda ids: ids == connection_id


def read_histories(session: Session, condition: ConnectionFilter) -> Iterator[ConnectionHistory]:
    """Yield the history of each connection that is in any of the tables, in the order of their ids.

    Consume each history before the next one: they share one stream for each table. All rows must be from the same
    moment, therefore the transaction must be a snapshot, or hold the locks of the connections' read requests.
    """
    baselines = _RowStream(session, baselines_query(condition), lambda row: row.connection_id)
    event_baselines = _RowStream(session, event_baselines_query(condition), lambda row: row.connection_id)
    mirrors = _RowStream(session, mirrors_query(condition), lambda row: row.id)
    observations = _RowStream(session, observations_query(condition), lambda row: row.connection_id)
    events = _RowStream(session, events_query(condition), lambda row: row.connection_id)
    while ids := [
        each.id for each in (baselines, event_baselines, mirrors, observations, events) if each.id is not None
    ]:
        id_ = min(ids)
        yield ConnectionHistory(
            connection_id=id_,
            baseline=next(baselines.rows_of(id_), None),
            event_baseline=next(event_baselines.rows_of(id_), None),
            stored_mirror=next(mirrors.rows_of(id_), None),
            observations=observations.rows_of(id_),
            events=events.rows_of(id_),
        )
        for unread in (observations.rows_of(id_), events.rows_of(id_)):
            for _row in unread:
                pass


def baselines_query(condition: ConnectionFilter) -> SelectOfScalar[BaselineRow]:
    """Return the query for the connections' baselines."""
    ids = col(BaselineRow.connection_id)
    return select(BaselineRow).where(condition(ids)).order_by(ids)


def event_baselines_query(condition: ConnectionFilter) -> SelectOfScalar[EventBaselineRow]:
    """Return the query for the connections' event baselines."""
    ids = col(EventBaselineRow.connection_id)
    return select(EventBaselineRow).where(condition(ids)).order_by(ids)


def mirrors_query(condition: ConnectionFilter) -> SelectOfScalar[ConnectionRow]:
    """Return the query for the connections' mirror rows."""
    ids = col(ConnectionRow.id)
    return select(ConnectionRow).where(condition(ids)).order_by(ids)


def observations_query(condition: ConnectionFilter) -> SelectOfScalar[ObservationRow]:
    """Return the query for the connections' observations, in order."""
    ids = col(ObservationRow.connection_id)
    return select(ObservationRow).where(condition(ids)).order_by(ids, col(ObservationRow.id))


def events_query(condition: ConnectionFilter) -> SelectOfScalar[EventRow]:
    """Return the query for the connections' events, in the order of their observations."""
    ids = col(EventRow.connection_id)
    return select(EventRow).where(condition(ids)).order_by(ids, col(EventRow.observation_id), col(EventRow.position))


class _RowStream(Generic[R]):
    """The rows of a query in the order of their connections.

    Attributes:
        id: The connection of the next row; None at the end.
    """

    def __init__(self, session: Session, statement: SelectOfScalar[R], key: Callable[[R], str]) -> None:
        # A server-side cursor: few rows are in memory, however long the history.
        self._rows = iter(session.exec(statement.execution_options(yield_per=FETCH_ROWS)))
        self._key = key
        self._advance()

    def rows_of(self, connection_id: str) -> Iterator[R]:
        """Yield the next rows, as far as they belong to this connection."""
        while self.id == connection_id and self._next is not None:
            row = self._next
            self._advance()
            yield row

    def _advance(self) -> None:
        self._next = next(self._rows, None)
        self.id = self._key(self._next) if self._next is not None else None
