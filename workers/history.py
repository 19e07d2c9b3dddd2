"""History: the rows of many connections, read side by side, connection by connection, a few rows at a time."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Mapped
from sqlmodel import Session, SQLModel, col, select
from sqlmodel.sql.expression import SelectOfScalar

from schemas.tables import Baseline, Connection, Event, Floor, Observation
from workers.check import History

ROWS = 100
"""Rows of each table that are fetched at once."""

R = TypeVar("R", bound=SQLModel)
Condition = Callable[[Mapped[str]], ColumnElement[bool]]
"""Which connections; told the column that names them."""


def chunk_end(session: Session, after: str, size: int) -> str | None:
    """Return the id at which a chunk of so many connections behind an id ends; None where it is the last."""
    ids = select(Connection.id).where(col(Connection.id) > after).order_by(col(Connection.id))
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
    baselines = _Stream(session, baselines_of(condition), lambda row: row.connection_id)
    floors = _Stream(session, floors_of(condition), lambda row: row.connection_id)
    mirrors = _Stream(session, mirrors_of(condition), lambda row: row.id)
    observations = _Stream(session, observations_of(condition), lambda row: row.connection_id)
    events = _Stream(session, events_of(condition), lambda row: row.connection_id)
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


def baselines_of(condition: Condition) -> SelectOfScalar[Baseline]:
    """Return the query for the connections' baselines."""
    ids = col(Baseline.connection_id)
    return select(Baseline).where(condition(ids)).order_by(ids)


def floors_of(condition: Condition) -> SelectOfScalar[Floor]:
    """Return the query for where the connections' events begin."""
    ids = col(Floor.connection_id)
    return select(Floor).where(condition(ids)).order_by(ids)


def mirrors_of(condition: Condition) -> SelectOfScalar[Connection]:
    """Return the query for the connections' rows."""
    ids = col(Connection.id)
    return select(Connection).where(condition(ids)).order_by(ids)


def observations_of(condition: Condition) -> SelectOfScalar[Observation]:
    """Return the query for the connections' observations, in order."""
    ids = col(Observation.connection_id)
    return select(Observation).where(condition(ids)).order_by(ids, col(Observation.id))


def events_of(condition: Condition) -> SelectOfScalar[Event]:
    """Return the query for the connections' events, in the order of their observations."""
    ids = col(Event.connection_id)
    return select(Event).where(condition(ids)).order_by(ids, col(Event.observation_id), col(Event.position))


class _Stream(Generic[R]):
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
