"""Rotate: what is stored in clear, or sealed with an older key, is sealed with the newest.

It runs beside the service, and beside others of its kind. Bodies are read and sealed without any lock, and written
where the row is still as it was read. Each row tells the key that it is sealed with, so one that was interrupted finds
less to do the next time. Secrets do not tell, and are few: all of them are sealed anew, under the lock of their row.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, bindparam, func, update
from sqlalchemy.orm import Mapped
from sqlmodel import col, select

from runtime.audit import note
from runtime.database import Database
from runtime.errors import EncryptionError
from runtime.security.encryption import Encryption
from schemas.key_rotation import CLEAR, UNKNOWN, KeyRotationReport, Kind
from schemas.tables import RejectionRow, SubscriptionRow, WebhookRow

SPAN = 1_000
"""Rows that one statement looks at, however few of them there are to do."""

ROWS = 10
"""Bodies that are fetched at once."""

MOST_ROWS = 100
MOST_BYTES = 2 * 1024 * 1024
"""Bytes of bodies that share a commit: SQLite's lock, and the rows' on PostgreSQL, last for some milliseconds."""

REST_SECONDS = 0.02
"""How long it rests after a commit: who waits for SQLite's lock looks for it now and then, and must find it free."""


class _Body(NamedTuple):
    """A body as it is stored; ``turn`` is where its row stands in the order in which rows of its table are locked."""

    id: int
    stored: bytes
    encrypted_with: str | None
    turn: int | str


@dataclass(frozen=True, slots=True)
class _Span:
    """Rows that lie together: behind an id, up to another, and how many they are."""

    after: int
    until: int
    count: int


@dataclass(frozen=True, slots=True)
class _Shelf:
    """A table of bodies, the order in which everybody locks its rows, and which of them have a body."""

    kind: Kind
    table: type[WebhookRow | RejectionRow]
    order: Mapped[Any]
    conditions: tuple[ColumnElement[bool], ...] = ()

    def within(self, span: _Span) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions for the bodies of a span."""
        ids = col(self.table.id)
        return (ids > span.after, ids <= span.until, *self.conditions)


SHELVES = (
    # A body that retention has removed must stay so.
    _Shelf("webhook bodies", WebhookRow, col(WebhookRow.id), (col(WebhookRow.emptied_at).is_(None),)),
    _Shelf("rejection bodies", RejectionRow, col(RejectionRow.digest)),
)


class KeyRotation:
    """Seals everything with the newest key.

    Args:
        database: The database.
        vault: The keys, newest first.
        wait: Waits for so many seconds.
        span: How many rows one statement looks at.
        most_rows: How many rows share a commit.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Encryption,
        wait: Callable[[float], object],
        span: int = SPAN,
        most_rows: int = MOST_ROWS,
    ) -> None:
        self._database = database
        self._vault = vault
        self._wait = wait
        self._span = span
        self._most_rows = most_rows

    def run(self, progress: Callable[[int], None] = lambda _count: None, *, who: str) -> list[KeyRotationReport]:
        """Rotate, and tell what came of it.

        Args:
            progress: Told each time how many rows more have been looked at.
            who: Who wants it.

        Raises:
            VaultError: Where there is no key.
            OutOfReachError: Where the database does not answer; the next run goes on from there.
        """
        newest = self._vault.require()
        with self._database.write() as session:
            # Before anything is done: it is done in many transactions, and may be interrupted between any of them.
            note(self._database, session, who=who, act="keys.rotated", subject=newest)
        return [*(self._bodies(shelf, newest, progress) for shelf in SHELVES), self._secrets(newest)]

    def _bodies(self, shelf: _Shelf, newest: str, progress: Callable[[int], None]) -> KeyRotationReport:
        rotated = unreadable = 0
        keys: Counter[str] = Counter()
        for span in self._spans(shelf):
            for rows in self._stale(shelf, span):
                sealed = list(self._sealed_anew(rows))
                unreadable += len(rows) - len(sealed)
                rotated += self._write(shelf, sealed)
                self._wait(REST_SECONDS)
            keys += self._keys(shelf, span)
            progress(span.count)
        return KeyRotationReport(kind=shelf.kind, rotated=rotated, unreadable=unreadable, newest=newest, keys=keys)

    def _spans(self, shelf: _Shelf) -> Iterator[_Span]:
        """Yield all rows in the order of their ids, to the end as it is when the end is reached."""
        span = _Span(0, 0, self._span)
        while span.count == self._span:
            with self._database.read() as session:
                ids = col(shelf.table.id)
                following = select(ids).where(ids > span.until).order_by(ids).limit(self._span).subquery()
                count, until = session.exec(select(func.count(), func.max(following.c.id))).one()
            span = _Span(span.until, until or 0, count)
            if count:
                yield span

    def _stale(self, shelf: _Shelf, span: _Span) -> Iterator[Sequence[_Body]]:
        """Yield the rows of a span that the newest key has not sealed, a few at a time."""
        while rows := self._some_stale(shelf, span):
            yield rows
            span = replace(span, after=rows[-1].id)

    def _some_stale(self, shelf: _Shelf, span: _Span) -> Sequence[_Body]:
        table = shelf.table
        is_stale = col(table.encrypted_with).is_distinct_from(self._vault.key_name)
        stale = select(table.id, table.body, table.encrypted_with, shelf.order).where(*shelf.within(span), is_stale)
        stale = stale.order_by(col(table.id)).limit(self._most_rows)
        rows, size = [], 0
        with self._database.read() as session:
            for row in session.exec(stale.execution_options(yield_per=ROWS)):
                rows.append(_Body(*row))
                size += len(rows[-1].stored)
                if size >= MOST_BYTES:
                    break
        return rows

    def _sealed_anew(self, rows: Iterable[_Body]) -> Iterator[dict[str, Any]]:
        for row in sorted(rows, key=attrgetter("turn")):
            with suppress(EncryptionError):
                body = self._vault.seal_bytes(self._vault.open_bytes(row.stored, row.encrypted_with))
                yield {"row": row.id, "before": row.encrypted_with, "anew": body, "newest": self._vault.key_name}

    def _write(self, shelf: _Shelf, sealed: Sequence[dict[str, Any]]) -> int:
        """Write bodies where nobody has changed their rows meanwhile."""
        if not sealed:
            return 0
        table = shelf.table
        unchanged = (
            col(table.id) == bindparam("row"),
            col(table.encrypted_with).is_not_distinct_from(bindparam("before")),
            *shelf.conditions,
        )
        rows = update(table).where(*unchanged).values(body=bindparam("anew"), encrypted_with=bindparam("newest"))
        with self._database.write() as session:
            return session.connection().execute(rows, sealed).rowcount

    def _keys(self, shelf: _Shelf, span: _Span) -> Counter[str]:
        key = col(shelf.table.encrypted_with)
        counts = select(key, func.count()).where(*shelf.within(span)).group_by(key)
        with self._database.read() as session:
            return Counter({name or CLEAR: count for name, count in session.exec(counts)})

    def _secrets(self, newest: str) -> KeyRotationReport:
        # A handler has none.
        owners = select(SubscriptionRow.id).where(SubscriptionRow.secret != "").order_by(col(SubscriptionRow.id))
        with self._database.read() as session:
            ids = session.exec(owners).all()
        rotated = unreadable = 0
        for id_ in ids:
            sealed, unopened = self._seal_secrets(id_)
            rotated, unreadable = rotated + sealed, unreadable + unopened
        keys = {newest: rotated} | ({UNKNOWN: unreadable} if unreadable else {})
        return KeyRotationReport(
            kind="subscription secrets", rotated=rotated, unreadable=unreadable, newest=newest, keys=keys
        )

    def _seal_secrets(self, id_: str) -> tuple[int, int]:
        """Seal the secrets of a subscription anew; return how many, and how many no key has opened."""
        one = select(SubscriptionRow).where(SubscriptionRow.id == id_).with_for_update()
        with self._database.write() as session:
            row = session.exec(one).first()
            if row is None:
                return 0, 0
            now = session.exec(select(self._database.now())).one()
            lasting = [old for old in row.previous_secrets if datetime.fromisoformat(old["until"]) > now]
            before = [row.secret, *(old["sealed"] for old in lasting)]
            after = [self._reseal(sealed) for sealed in before]
            row.secret = after[0] or row.secret
            row.previous_secrets = [
                {**old, "sealed": sealed or old["sealed"]} for old, sealed in zip(lasting, after[1:], strict=True)
            ]
        return len(after) - after.count(None), after.count(None)

    def _reseal(self, sealed: str) -> str | None:
        """Return a secret sealed with the newest key; None where no key opens it."""
        with suppress(EncryptionError):
            return self._vault.seal(self._vault.open(sealed))
        return None
