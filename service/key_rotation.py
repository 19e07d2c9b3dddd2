"""Key rotation: encrypt stored webhook bodies and secrets again with the newest key, beside the running service.

Bodies are read and encrypted without a lock, and written only if their row is unchanged. Each row names the key that
encrypts its body, so an interrupted rotation finds less to do the next time. The rows of secrets do not name a key, but
are few: all secrets are encrypted again, under the lock of their row.
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

from runtime.audit import append_entry
from runtime.database import Database
from runtime.errors import EncryptionError
from runtime.security.encryption import Encryption
from schemas.key_rotation import UNENCRYPTED, UNKNOWN_KEY, EncryptedKind, KeyRotationReport
from schemas.tables import RejectionRow, SubscriptionRow, WebhookRow

SCAN_SIZE = 1_000
"""Rows that one statement scans, however few of them need another key."""

FETCH_SIZE = 10
"""Bodies that are fetched at once."""

MAX_BATCH_ROWS = 100
MAX_BATCH_BYTES = 2 * 1024 * 1024
"""Bodies in bytes that share a commit: the locks last for some milliseconds."""

PAUSE_SECONDS = 0.02
"""The pause after a commit. Processes that wait for SQLite's lock poll it, and must find it free sometimes."""


class _Body(NamedTuple):
    """A body as it is stored. Rows are locked in the order of ``lock_order``, by all transactions."""

    id: int
    stored: bytes
    encrypted_with: str | None
    lock_order: int | str


@dataclass(frozen=True, slots=True)
class _IdRange:
    """Rows with consecutive ids: behind one id, up to another, and how many there are."""

    after: int
    until: int
    count: int


@dataclass(frozen=True, slots=True)
class _EncryptedTable:
    """A table of encrypted bodies, its lock order, and the condition that a row has a body."""

    kind: EncryptedKind
    table: type[WebhookRow | RejectionRow]
    lock_order: Mapped[Any]
    conditions: tuple[ColumnElement[bool], ...] = ()

    def within(self, ids: _IdRange) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions for the bodies of a range."""
        return (col(self.table.id) > ids.after, col(self.table.id) <= ids.until, *self.conditions)


ENCRYPTED_TABLES = (
    # A body that retention has removed must stay removed.
    _EncryptedTable("webhook bodies", WebhookRow, col(WebhookRow.id), (col(WebhookRow.emptied_at).is_(None),)),
    _EncryptedTable("rejection bodies", RejectionRow, col(RejectionRow.digest)),
)


class KeyRotation:
    """Encrypts everything that is stored with the newest key.

    Args:
        database: The database.
        encryption: The keys, newest first.
        wait: Waits for so many seconds.
        scan_size: How many rows one statement scans.
        max_batch_rows: How many rows share a commit.
    """

    def __init__(
        self,
        *,
        database: Database,
        encryption: Encryption,
        wait: Callable[[float], object],
        scan_size: int = SCAN_SIZE,
        max_batch_rows: int = MAX_BATCH_ROWS,
    ) -> None:
        self._database = database
        self._encryption = encryption
        self._wait = wait
        self._scan_size = scan_size
        self._max_batch_rows = max_batch_rows

    def run(self, progress: Callable[[int], None] = lambda _count: None, *, who: str) -> list[KeyRotationReport]:
        """Rotate the keys, and return a report for each kind of encrypted data.

        Args:
            progress: Called with the number of rows scanned since the last call.
            who: The operator.

        Raises:
            EncryptionError: If there is no key.
            OutOfReachError: If the database does not answer. The next run continues from there.
        """
        newest = self._encryption.require_key()
        with self._database.write() as session:
            # The entry comes first: the rotation takes many transactions, and may be interrupted between two of them.
            append_entry(self._database, session, who=who, act="keys.rotated", subject=newest)
        return [
            *(self._rotate_bodies(table, newest, progress) for table in ENCRYPTED_TABLES),
            self._rotate_secrets(newest),
        ]

    def _rotate_bodies(
        self, encrypted: _EncryptedTable, newest: str, progress: Callable[[int], None]
    ) -> KeyRotationReport:
        rotated = unreadable = 0
        keys: Counter[str] = Counter()
        for ids in self._id_ranges(encrypted):
            for bodies in self._stale_bodies(encrypted, ids):
                reencrypted = list(self._reencrypt_bodies(bodies))
                unreadable += len(bodies) - len(reencrypted)
                rotated += self._write(encrypted, reencrypted)
                self._wait(PAUSE_SECONDS)
            keys += self._count_keys(encrypted, ids)
            progress(ids.count)
        return KeyRotationReport(kind=encrypted.kind, rotated=rotated, unreadable=unreadable, newest=newest, keys=keys)

    def _id_ranges(self, encrypted: _EncryptedTable) -> Iterator[_IdRange]:
        """Yield ranges that cover all rows in the order of their ids, up to the last row when it is reached."""
        ids = col(encrypted.table.id)
        current = _IdRange(0, 0, self._scan_size)
        while current.count == self._scan_size:
            with self._database.read() as session:
                following = select(ids).where(ids > current.until).order_by(ids).limit(self._scan_size).subquery()
                count, until = session.exec(select(func.count(), func.max(following.c.id))).one()
            current = _IdRange(current.until, until or 0, count)
            if count:
                yield current

    def _stale_bodies(self, encrypted: _EncryptedTable, ids: _IdRange) -> Iterator[Sequence[_Body]]:
        """Yield the bodies of a range that the newest key does not encrypt, in batches."""
        while bodies := self._fetch_stale(encrypted, ids):
            yield bodies
            ids = replace(ids, after=bodies[-1].id)

    def _fetch_stale(self, encrypted: _EncryptedTable, ids: _IdRange) -> Sequence[_Body]:
        table = encrypted.table
        is_stale = col(table.encrypted_with).is_distinct_from(self._encryption.key_name)
        columns = select(table.id, table.body, table.encrypted_with, encrypted.lock_order)
        stale = columns.where(*encrypted.within(ids), is_stale).order_by(col(table.id)).limit(self._max_batch_rows)
        bodies, size = [], 0
        with self._database.read() as session:
            for row in session.exec(stale.execution_options(yield_per=FETCH_SIZE)):
                bodies.append(_Body(*row))
                size += len(bodies[-1].stored)
                if size >= MAX_BATCH_BYTES:
                    break
        return bodies

    def _reencrypt_bodies(self, bodies: Iterable[_Body]) -> Iterator[dict[str, Any]]:
        for body in sorted(bodies, key=attrgetter("lock_order")):
            with suppress(EncryptionError):
                decrypted = self._encryption.decrypt_bytes(body.stored, body.encrypted_with)
                yield {
                    "row": body.id,
                    "old_key": body.encrypted_with,
                    "new_body": self._encryption.encrypt_bytes(decrypted),
                    "new_key": self._encryption.key_name,
                }

    def _write(self, encrypted: _EncryptedTable, reencrypted: Sequence[dict[str, Any]]) -> int:
        """Write bodies whose rows no other transaction has changed since they were read; return how many."""
        if not reencrypted:
            return 0
        table = encrypted.table
        is_unchanged = (
            col(table.id) == bindparam("row"),
            col(table.encrypted_with).is_not_distinct_from(bindparam("old_key")),
            *encrypted.conditions,
        )
        rows = (
            update(table).where(*is_unchanged).values(body=bindparam("new_body"), encrypted_with=bindparam("new_key"))
        )
        with self._database.write() as session:
            return session.connection().execute(rows, reencrypted).rowcount

    def _count_keys(self, encrypted: _EncryptedTable, ids: _IdRange) -> Counter[str]:
        key = col(encrypted.table.encrypted_with)
        counts = select(key, func.count()).where(*encrypted.within(ids)).group_by(key)
        with self._database.read() as session:
            return Counter({name or UNENCRYPTED: count for name, count in session.exec(counts)})

    def _rotate_secrets(self, newest: str) -> KeyRotationReport:
        # A Python handler has no secret.
        owners = select(SubscriptionRow.id).where(SubscriptionRow.secret != "").order_by(col(SubscriptionRow.id))
        with self._database.read() as session:
            ids = session.exec(owners).all()
        rotated = unreadable = 0
        for id_ in ids:
            encrypted, failed = self._reencrypt_secrets(id_)
            rotated, unreadable = rotated + encrypted, unreadable + failed
        keys = {newest: rotated} | ({UNKNOWN_KEY: unreadable} if unreadable else {})
        return KeyRotationReport(
            kind="subscription secrets", rotated=rotated, unreadable=unreadable, newest=newest, keys=keys
        )

    def _reencrypt_secrets(self, id_: str) -> tuple[int, int]:
        """Encrypt the secrets of a subscription again; return how many, and how many no key decrypts."""
        one = select(SubscriptionRow).where(SubscriptionRow.id == id_).with_for_update()
        with self._database.write() as session:
            row = session.exec(one).first()
            if row is None:
                return 0, 0
            now = session.exec(select(self._database.now())).one()
            valid = [old for old in row.previous_secrets if datetime.fromisoformat(old["until"]) > now]
            before = [row.secret, *(old["sealed"] for old in valid)]
            after = [self._reencrypt(secret) for secret in before]
            row.secret = after[0] or row.secret
            row.previous_secrets = [
                {**old, "sealed": secret or old["sealed"]} for old, secret in zip(valid, after[1:], strict=True)
            ]
        return len(after) - after.count(None), after.count(None)

    def _reencrypt(self, secret: str) -> str | None:
        """Return a secret encrypted with the newest key; None if no key decrypts it."""
        with suppress(EncryptionError):
            return self._encryption.encrypt(self._encryption.decrypt(secret))
        return None
