"""History: the rows of many connections, read side by side, connection by connection, a few rows at a time."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Mapped
from sqlmodel import Session, SQLModel, col, select
from sqlmodel.sql.expression import SelectOfScalar

from schemas.tables import BaselineRow, ConnectionRow, EventBaselineRow, EventRow, ObservationRow
from workers.history.consistency import History

ROWS = 100
"""Rows of each table that are fetched at once."""

R = TypeVar("R", bound=SQLModel)
Condition = Callable[[Mapped[str]], ColumnElement[bool]]
"""Which connections; told the column that names them."""


def chunk_end(session: Session, after: str, size: int) -> str | None:
    """Return the id at which a chunk of so many connections behind an id ends; None where it is the last."""
    ids = select(ConnectionRow.id).where(col(ConnectionRow.id) > after).order_by(col(ConnectionRow.id))
    return session.exec(ids.offset(size - 1).limit(1)).first()


def between(after: str, until: str | None) -> Condition:
    """Return the condition for all connections behind an id, to the end or up to another."""
    return lambda ids: ids > after if until is None else (ids > after) & (ids <= until)


def only(connection_id: str) -> Condition:
    """Return the condition for one connection."""
    return lambda ids: ids == connection_id


def histories(session: Session, condition: Condition) -> Iterator[History]:
    """Yield the histories of the connections that any of the tables names, in the order of their ids.

    Each must be read before the next is asked for. All rows are to be of one moment: so the transaction is a snapshot,
    or it holds the locks of the jobs.
    """
    baselines = _RowStream(session, baselines_of(condition), lambda row: row.connection_id)
    floors = _RowStream(session, floors_of(condition), lambda row: row.connection_id)
    mirrors = _RowStream(session, mirrors_of(condition), lambda row: row.id)
    observations = _RowStream(session, observations_of(condition), lambda row: row.connection_id)
    events = _RowStream(session, events_of(condition), lambda row: row.connection_id)
    while ids := [each.id for each in (baselines, floors, mirrors, observations, events) if each.id is not None]:
        id_ = min(ids)
        yield History(
            connection_id=id_,
            baseline=next(baselines.of(id_), None),
            floor=next(floors.of(id_), None),
            live=next(mirrors.of(id_), None),
            observations=observations.of(id_),
            events=events.of(id_),
        )
        for rest in (observations.of(id_), events.of(id_)):
            for _row in rest:
                pass


def baselines_of(condition: Condition) -> SelectOfScalar[BaselineRow]:
    """Return the query for the connections' baselines."""
    ids = col(BaselineRow.connection_id)
    return select(BaselineRow).where(condition(ids)).order_by(ids)


def floors_of(condition: Condition) -> SelectOfScalar[EventBaselineRow]:
    """Return the query for where the connections' events begin."""
    ids = col(EventBaselineRow.connection_id)
    return select(EventBaselineRow).where(condition(ids)).order_by(ids)


def mirrors_of(condition: Condition) -> SelectOfScalar[ConnectionRow]:
    """Return the query for the connections' rows."""
    ids = col(ConnectionRow.id)
    return select(ConnectionRow).where(condition(ids)).order_by(ids)


def observations_of(condition: Condition) -> SelectOfScalar[ObservationRow]:
    """Return the query for the connections' observations, in order."""
    ids = col(ObservationRow.connection_id)
    return select(ObservationRow).where(condition(ids)).order_by(ids, col(ObservationRow.id))


def events_of(condition: Condition) -> SelectOfScalar[EventRow]:
    """Return the query for the connections' events, in the order of their observations."""
    ids = col(EventRow.connection_id)
    return select(EventRow).where(condition(ids)).order_by(ids, col(EventRow.observation_id), col(EventRow.position))


class _RowStream(Generic[R]):
    """The rows of a query in the order of their connections.

    Attributes:
        id: The connection of the next row; None where there is none.
    """

    def __init__(self, session: Session, statement: SelectOfScalar[R], key: Callable[[R], str]) -> None:
        # Fetched a few at a time; so nothing but what is at hand is in memory.
        self._rows = iter(session.exec(statement.execution_options(yield_per=ROWS)))
        self._key = key
        self._step()

    def of(self, connection_id: str) -> Iterator[R]:
        """Yield the rows of the connection that is next."""
        while self.id == connection_id and self._next is not None:
            row = self._next
            self._step()
            yield row

    def _step(self) -> None:
        self._next = next(self._rows, None)
        self.id = self._key(self._next) if self._next is not None else None
