"""Sift: what may go of a table, found window by window along its primary key, and removed if it still may.

A window is read without a lock, so to look costs nobody anything. What is removed is looked at again by the transaction
that does it, which passes over each row that somebody else has locked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Delete, Row, Select, Update, bindparam, case, delete, select, update
from sqlalchemy.orm import Mapped
from sqlmodel import Session, col

WINDOW = 500
"""Rows looked at at once. They come in the order of their keys, so behind a window without old ones there are none."""


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What may go: of which kind, and by which keys it is removed, each with the number of rows that it stands for."""

    kind: str
    rows: Mapping[Any, int]


@dataclass(frozen=True, slots=True)
class ScanWindow:
    """What was found in a window, and the key behind which the next one begins; None where it was the last."""

    found: tuple[ScanResult, ...]
    after: int | None


class Sieve(Protocol):
    """Finds and removes what may go of one table."""

    def look(self, session: Session, after: int) -> ScanWindow:
        """Look at the window behind a key."""

    def remove(self, session: Session, kind: str, keys: Sequence[Any]) -> int:
        """Remove what was found, as far as it still may go, or a part of it; return how many rows."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of the rows that meet a condition: they get other values, or are removed where there are none."""

    condition: ColumnElement[bool]
    values: Mapping[str, Any] | None = None


class Rows:
    """Rows that go one by one.

    Args:
        table: The table, whose key is ``id``.
        came_at: When a row came.
        fates: What becomes of them, by kind; of several the first.
        newest: What came then or later stays as it is.
    """

    def __init__(self, table: Any, came_at: datetime, fates: Mapping[str, Fate], newest: datetime) -> None:  # noqa: ANN401 - a table's class
        self._table = table
        self._fates = fates
        kind = case(*((fate.condition, kind) for kind, fate in fates.items()))
        self._window = _window(col(table.id), col(came_at) < newest, kind.label("kind"))
        self._removals = {kind: self._removal(fate) for kind, fate in fates.items()}

    def look(self, session: Session, after: int) -> ScanWindow:
        """See ``Sieve``."""
        rows = session.connection().execute(self._window, {"behind": after}).all()
        keys = {kind: dict.fromkeys((row.key for row in rows if row.kind == kind), 1) for kind in self._fates}
        return ScanWindow(tuple(ScanResult(kind, ids) for kind, ids in keys.items() if ids), _after(rows))

    def remove(self, session: Session, kind: str, keys: Sequence[Any]) -> int:
        """See ``Sieve``."""
        return len(session.connection().execute(self._removals[kind], {"keys": list(keys)}).all())

    def _removal(self, fate: Fate) -> Delete | Update:
        ids = col(self._table.id)
        chosen = select(ids).where(ids.in_(bindparam("keys", expanding=True)), fate.condition).order_by(ids)
        # Locked in their order, as everybody does who locks several; and never waited for.
        free = ids.in_(select(chosen.with_for_update(skip_locked=True).cte("free").c.id))
        if fate.values is None:
            return delete(self._table).where(free).returning(ids)
        return update(self._table).where(free).values(**fate.values).returning(ids)


class Histories:
    """Rows that go connection by connection, the oldest of each first.

    Args:
        kind: What they are.
        key: The table's key.
        connection_id: Whose a row is.
        came_at: When it came.
        before: What came then or later stays.
        count: Returns how many rows of a connection may go.
        remove: Removes some of them, and returns how many.
    """

    def __init__(
        self,
        kind: str,
        *,
        key: Mapped[Any],
        connection_id: Mapped[str],
        came_at: Mapped[datetime],
        before: datetime,
        count: Callable[[Session, str], int],
        remove: Callable[[Session, str], int],
    ) -> None:
        self._kind = kind
        self._window = _window(key, came_at < before, connection_id.label("connection_id"))
        self._count = count
        self._remove = remove
        self._seen: set[str] = set()

    def look(self, session: Session, after: int) -> ScanWindow:
        """See ``Sieve``."""
        rows = session.connection().execute(self._window, {"behind": after}).all()
        new = dict.fromkeys(row.connection_id for row in rows if row.is_old and row.connection_id not in self._seen)
        self._seen.update(new)
        # Each for itself: a commit has one connection's job locked at a time.
        found = [ScanResult(self._kind, {id_: count}) for id_ in new if (count := self._count(session, id_))]
        return ScanWindow(tuple(found), _after(rows))

    def remove(self, session: Session, kind: str, keys: Sequence[Any]) -> int:  # noqa: ARG002 - there is one
        """See ``Sieve``."""
        (connection_id,) = keys
        return self._remove(session, connection_id)


def _window(key: Mapped[Any], is_old: ColumnElement[bool], *columns: ColumnElement[Any]) -> Select[Any]:
    rows = select(key.label("key"), is_old.label("is_old"), *columns)
    return rows.where(key > bindparam("behind")).order_by(key).limit(WINDOW)


def _after(rows: Sequence[Row[Any]]) -> int | None:
    return rows[-1].key if len(rows) == WINDOW and any(row.is_old for row in rows) else None
