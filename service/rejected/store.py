"""Rejection store: bounded table of refused requests; deduplicates, caps likely requests, keeps a sample of noise.

Likely requests (see ``service.rejected.limits``) are never removed for newer ones. Of all others the latest are kept.
A request that comes again is counted in its row.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Executable, delete, func
from sqlmodel import col, select

from runtime.database import Database
from runtime.security.encryption import Encryption
from runtime.security.lenient_json import clean_text
from schemas.meld.webhook import Hint, RefusedWebhook
from schemas.tables import RejectionRow
from service.ingest.payload import parse_hint
from service.ingest.signature import TIMESTAMP_HEADER, parse_signature_time
from service.rejected.limits import (
    MAX_LIKELY_BYTES,
    MAX_LIKELY_ROWS,
    MAX_UNLIKELY_ROWS,
    SIGNED_REASONS,
    is_whole,
)

InsertResult = Literal["kept", "repeated", "over_cap"]


class RejectionStore:
    """Stores refused requests.

    Args:
        database: The database.
        encryption: Encrypts the bodies.
        max_likely_rows: See ``service.rejected.limits``.
        max_likely_bytes: See ``service.rejected.limits``.
        max_unlikely_rows: See ``service.rejected.limits``.
    """

    def __init__(
        self,
        *,
        database: Database,
        encryption: Encryption,
        max_likely_rows: int = MAX_LIKELY_ROWS,
        max_likely_bytes: int = MAX_LIKELY_BYTES,
        max_unlikely_rows: int = MAX_UNLIKELY_ROWS,
    ) -> None:
        self._database = database
        self._encryption = encryption
        self._max_likely_rows = max_likely_rows
        self._max_likely_bytes = max_likely_bytes
        self._max_unlikely_rows = max_unlikely_rows

    def insert(self, batch: Sequence[RefusedWebhook]) -> Counter[InsertResult]:
        """Store a batch; return how many were kept, repeated, or dropped over the cap.

        Several processes together may exceed the cap by a batch each, because each counts before it writes.

        Raises:
            OutOfReachError: The database does not answer; nothing of the batch is stored.
        """
        rows = self._merge(batch)
        stored = self._count_likely({row["reason"] for row in rows.values() if row["is_likely"]})
        results: Counter[InsertResult] = Counter()
        with self._database.write() as session:
            known = set(session.exec(select(RejectionRow.digest).where(col(RejectionRow.digest).in_(rows))).all())
            accepted = [row for digest, row in rows.items() if digest in known or self._has_room(row, stored)]
            if accepted:
                session.connection().execute(_upsert(self._database), accepted)
        for row in accepted:
            is_new = row["digest"] not in known
            results["kept"] += is_new
            results["repeated"] += row["times"] - is_new
        results["over_cap"] = len(batch) - results.total()
        self._delete_oldest_unlikely({row["reason"] for row in accepted if not row["is_likely"]})
        return results

    def _merge(self, batch: Iterable[RefusedWebhook]) -> dict[str, dict[str, Any]]:
        """Return one row for each digest, in the order in which every process locks them."""
        rows: dict[str, dict[str, Any]] = {}
        for refused in batch:
            digest = _digest(refused)
            if digest not in rows:
                rows[digest] = {"digest": digest, "times": 0, **self._constant_columns(refused)}
            rows[digest].update(_latest_columns(refused), times=rows[digest]["times"] + 1)
        return dict(sorted(rows.items()))

    def _constant_columns(self, refused: RefusedWebhook) -> dict[str, Any]:
        """Return the columns that a repeat does not change."""
        hint = parse_hint(refused.body) if is_whole(refused.size) else Hint()
        return {
            "reason": refused.reason,
            "first_at": refused.received_at,
            "size": refused.size,
            "body": self._encryption.encrypt_bytes(refused.body),
            "encrypted_with": self._encryption.key_name,
            "is_likely": refused.reason in SIGNED_REASONS and hint.event_id is not None,
            "event_id": hint.event_id,
            # The CLI prints it: control characters could manipulate a terminal.
            "type": hint.type if hint.type is not None and hint.type.isprintable() else None,
        }

    def _count_likely(self, reasons: Collection[str]) -> dict[str, tuple[int, int]]:
        """Return rows and bytes of the likely requests that wait to be admitted, by reason."""
        if not reasons:
            return {}
        statement = (
            select(RejectionRow.reason, func.count(), func.sum(RejectionRow.size))
            .where(col(RejectionRow.reason).in_(sorted(reasons)))
            .where(col(RejectionRow.is_likely), col(RejectionRow.admitted_at).is_(None))
            .group_by(col(RejectionRow.reason))
        )
        with self._database.read() as session:
            return {reason: (rows, int(size)) for reason, rows, size in session.exec(statement).all()}

    def _has_room(self, row: Mapping[str, Any], stored: dict[str, tuple[int, int]]) -> bool:
        """Return whether a new row fits, and count it in ``stored`` if it is a likely one."""
        if not row["is_likely"]:
            return True
        rows, size = stored.get(row["reason"], (0, 0))
        if rows >= self._max_likely_rows or size + row["size"] > self._max_likely_bytes:
            return False
        stored[row["reason"]] = rows + 1, size + row["size"]
        return True

    def _delete_oldest_unlikely(self, reasons: Iterable[str]) -> None:
        for reason in sorted(reasons):
            unlikely = select(RejectionRow.id).where(RejectionRow.reason == reason, ~col(RejectionRow.is_likely))
            oldest = unlikely.order_by(col(RejectionRow.id).desc()).offset(self._max_unlikely_rows)
            # Other processes lock rows in another order: waiting for them could deadlock.
            oldest = oldest.with_for_update(skip_locked=True)
            with self._database.write() as session:
                session.exec(delete(RejectionRow).where(col(RejectionRow.id).in_(oldest)))


def _digest(refused: RefusedWebhook) -> str:
    return hashlib.sha256(f"{refused.reason} {refused.size}\n".encode() + refused.body).hexdigest()


def _latest_columns(refused: RefusedWebhook) -> dict[str, Any]:
    """Return the columns that a repeat replaces: Meld may sign a retry again."""
    headers = {name: clean_text(value) for name, value in refused.headers.items()}
    signed_at = parse_signature_time(headers.get(TIMESTAMP_HEADER.decode(), "").encode("latin-1", "replace"))
    return {
        "received_at": refused.received_at,
        "off_seconds": (refused.received_at - signed_at).total_seconds() if signed_at is not None else None,
        "headers": headers,
    }


def _upsert(database: Database) -> Executable:
    insert = database.insert(RejectionRow)
    latest = {name: insert.excluded[name] for name in ("received_at", "off_seconds", "headers")}
    values = {"times": RejectionRow.times + insert.excluded["times"], **latest}
    return insert.on_conflict_do_update(index_elements=["digest"], set_=values)
