"""Table scan of retention: finds removable rows in windows along the primary key, and removes them in batches.

A window is read without locks. The transaction that removes a batch checks the retention rule once more, and skips rows
that another transaction has locked. The scan works through old rows that are kept, too: its cost is that of the old
rows, not of the removed ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Delete, Row, Select, Update, bindparam, case, delete, select, update
from sqlalchemy.orm import Mapped
from sqlmodel import Session, col

WINDOW_ROWS = 500
"""Rows that one query reads. Keys are in the order of arrival: after a window without old rows the scan ends."""


@dataclass(frozen=True, slots=True)
class RemovableRows:
    """Removable rows of one kind: the keys to remove them by, each with the number of rows that it stands for."""

    kind: str
    rows: Mapping[Any, int]


@dataclass(frozen=True, slots=True)
class ScanWindow:
    """The removable rows of a window, and the key after which the next window begins; None if it was the last."""

    found: tuple[RemovableRows, ...]
    after: int | None


class TableScan(Protocol):
    """Finds and removes the removable rows of one table."""

    def find_removable(self, session: Session, after: int) -> ScanWindow:
        """Read the window after a key."""

    def remove(self, session: Session, kind: str, keys: Sequence[Any]) -> int:
        """Remove rows by their keys, all or a part, as far as they are still removable; return how many."""


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Rows that meet the condition are removed, or get these values."""

    condition: ColumnElement[bool]
    values: Mapping[str, Any] | None = None


class RowScan:
    """Rows that are removed independently of each other.

    Args:
        table: The table; its primary key is ``id``.
        arrived_at: The column that says when a row arrived.
        rules: The rules, by kind; the first one that a row meets applies.
        cutoff: No rule applies to rows that arrived at this time or later.
    """

    def __init__(self, table: Any, arrived_at: datetime, rules: Mapping[str, RetentionRule], cutoff: datetime) -> None:  # noqa: ANN401 - a table's class
        self._table = table
        self._rules = rules
        kind = case(*((rule.condition, kind) for kind, rule in rules.items()))
        self._window = _window(col(table.id), col(arrived_at) < cutoff, kind.label("kind"))
        self._removals = {kind: self._removal(rule) for kind, rule in rules.items()}

    def find_removable(self, session: Session, after: int) -> ScanWindow:
        """See ``TableScan``."""
        rows = session.connection().execute(self._window, {"after_key": after}).all()
        keys = {kind: dict.fromkeys((row.key for row in rows if row.kind == kind), 1) for kind in self._rules}
        return ScanWindow(tuple(RemovableRows(kind, ids) for kind, ids in keys.items() if ids), _next_after(rows))

    def remove(self, session: Session, kind: str, keys: Sequence[Any]) -> int:
        """See ``TableScan``."""
        return len(session.connection().execute(self._removals[kind], {"keys": list(keys)}).all())

    def _removal(self, rule: RetentionRule) -> Delete | Update:
        ids = col(self._table.id)
        chosen = select(ids).where(ids.in_(bindparam("keys", expanding=True)), rule.condition).order_by(ids)
        # Locked in the order of their ids, as in all transactions, and without waiting for others.
        unlocked = ids.in_(select(chosen.with_for_update(skip_locked=True).cte("unlocked").c.id))
        if rule.values is None:
            return delete(self._table).where(unlocked).returning(ids)
        return update(self._table).where(unlocked).values(**rule.values).returning(ids)


class ConnectionScan:
    """Rows that are removed connection by connection, the oldest of each first.

    The scan counts before it removes, once for each connection: a count needs no lock, and most connections have
    nothing to remove, for example because only their newest observation is old.

    Args:
        kind: The kind of the rows.
        key: The column of the primary key.
        connection_id: The column of the row's connection.
        arrived_at: The column that says when a row arrived.
        before: Rows that arrived at this time or later are kept.
        count: Returns how many rows of a connection are removable.
        remove: Removes some of them, and returns how many.
    """

    def __init__(
        self,
        kind: str,
        *,
        key: Mapped[Any],
        connection_id: Mapped[str],
        arrived_at: Mapped[datetime],
        before: datetime,
        count: Callable[[Session, str], int],
        remove: Callable[[Session, str], int],
    ) -> None:
        self._kind = kind
        self._window = _window(key, arrived_at < before, connection_id.label("connection_id"))
        self._count = count
        self._remove = remove
        self._seen: set[str] = set()

    def find_removable(self, session: Session, after: int) -> ScanWindow:
        """See ``TableScan``."""
        rows = session.connection().execute(self._window, {"after_key": after}).all()
        new = dict.fromkeys(row.connection_id for row in rows if row.is_old and row.connection_id not in self._seen)
        self._seen.update(new)
        # Each connection separately: a commit locks the read request of one connection at a time.
        found = [RemovableRows(self._kind, {id_: count}) for id_ in new if (count := self._count(session, id_))]
        return ScanWindow(tuple(found), _next_after(rows))

    def remove(self, session: Session, kind: str, keys: Sequence[Any]) -> int:  # noqa: ARG002 - there is one
        """See ``TableScan``."""
        (connection_id,) = keys
        return self._remove(session, connection_id)


def _window(key: Mapped[Any], is_old: ColumnElement[bool], *columns: ColumnElement[Any]) -> Select[Any]:
    rows = select(key.label("key"), is_old.label("is_old"), *columns)
    return rows.where(key > bindparam("after_key")).order_by(key).limit(WINDOW_ROWS)


def _next_after(rows: Sequence[Row[Any]]) -> int | None:
    return rows[-1].key if len(rows) == WINDOW_ROWS and any(row.is_old for row in rows) else None
