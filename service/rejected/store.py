"""Evidence: the table of refused webhooks, within bounds that strangers cannot stretch.

Nobody knows who sent what is here. So what looks like Meld's has room that nothing else can take, and nothing of it
makes way for what comes later; of everything else only the latest is kept, as a sample. What comes again is counted.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Literal

from sqlalchemy import Executable, delete, func
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.security.encryption import Encryption
from runtime.security.lenient_json import clean
from schemas.meld.webhook import MAX_REJECTED_BODY_BYTES, Hint, RefusedWebhook
from schemas.tables import RejectionRow
from service.ingest.payload import read_hint
from service.ingest.signature import TIMESTAMP, signature_time

MOST_LIKELY = 50_000
"""Rows that look like Meld's and wait to be admitted, of each reason. What comes beyond is dropped: it may be anybody's
forgery, and what is there may be genuine."""

MOST_LIKELY_BYTES = 128 * 1024 * 1024
"""Bytes of their bodies, of each reason."""

MOST_UNLIKELY = 100
"""Rows of everything else, of each reason; the oldest make way."""

COUNT_SECONDS = 10.0
"""How long the count of what is there is relied upon: other processes add to it too."""

SIGNED = frozenset({"unreadable_time", "wrong", "too_old", "in_the_future"})
"""The reasons of what came with a signature and a time, whole."""

Result = Literal["kept", "repeated", "over_cap"]


class RejectionStore:
    """Writes refused webhooks down.

    Args:
        database: The database.
        vault: Seals the bodies.
        most_likely: See ``MOST_LIKELY``.
        most_likely_bytes: See ``MOST_LIKELY_BYTES``.
        most_unlikely: See ``MOST_UNLIKELY``.
        count_seconds: See ``COUNT_SECONDS``.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Encryption,
        most_likely: int = MOST_LIKELY,
        most_likely_bytes: int = MOST_LIKELY_BYTES,
        most_unlikely: int = MOST_UNLIKELY,
        count_seconds: float = COUNT_SECONDS,
    ) -> None:
        self._database = database
        self._vault = vault
        self._most_unlikely = most_unlikely
        self._room = _Room(rows=most_likely, size=most_likely_bytes)
        self._count_seconds = count_seconds
        self._counted_at: float | None = None

    def keep(self, batch: Sequence[RefusedWebhook]) -> Counter[Result]:
        """Write a batch down; return how many came to what.

        Raises:
            OutOfReachError: The database does not answer; nothing of the batch is kept.
        """
        self._count_now_and_then()
        rows = self._merged(batch)
        results: Counter[Result] = Counter()
        with self._database.write() as session:
            known = set(session.exec(select(RejectionRow.digest).where(col(RejectionRow.digest).in_(rows))).all())
            fitting = [row for digest, row in rows.items() if digest in known or self._fits(row)]
            if fitting:
                session.connection().execute(_upsert(self._database), fitting)
        for row in fitting:
            results["repeated"] += row["times"] - (row["digest"] not in known)
            results["kept"] += row["digest"] not in known
        results["over_cap"] = len(batch) - results.total()
        self._make_way({row["reason"] for row in fitting if not row["is_likely"]})
        return results

    def _merged(self, batch: Iterable[RefusedWebhook]) -> dict[str, dict[str, Any]]:
        """Return a row for each digest, in the order in which all processes lock them."""
        rows: dict[str, dict[str, Any]] = {}
        for refused in batch:
            digest = _digest(refused)
            if digest not in rows:
                rows[digest] = {"digest": digest, "times": 0, **self._first(refused)}
            rows[digest].update(_latest(refused), times=rows[digest]["times"] + 1)
        return dict(sorted(rows.items()))

    def _first(self, refused: RefusedWebhook) -> dict[str, Any]:
        """Return what is the same whenever it comes again."""
        hint = read_hint(refused.body) if is_whole(refused.size) else Hint()
        return {
            "reason": refused.reason,
            "first_at": refused.received_at,
            "size": refused.size,
            "body": self._vault.seal_bytes(refused.body),
            "encrypted_with": self._vault.key_name,
            "is_likely": refused.reason in SIGNED and hint.event_id is not None,
            "event_id": hint.event_id,
            # It is shown on terminals, to which a stranger shall not speak.
            "type": hint.type if hint.type is not None and hint.type.isprintable() else None,
        }

    def _fits(self, row: Mapping[str, Any]) -> bool:
        return not row["is_likely"] or self._room.take(row["reason"], row["size"])

    def _count_now_and_then(self) -> None:
        now = monotonic()
        if self._counted_at is None or now - self._counted_at >= self._count_seconds:
            with self._database.read() as session:
                self._room.count(session)
            self._counted_at = now

    def _make_way(self, reasons: Iterable[str]) -> None:
        """Remove the oldest of what does not look like Meld's, beyond what is kept of it."""
        for reason in sorted(reasons):
            mine = select(RejectionRow.id).where(RejectionRow.reason == reason, ~col(RejectionRow.is_likely))
            beyond = mine.order_by(col(RejectionRow.id).desc()).offset(self._most_unlikely)
            # What another process is writing is not waited for: it locks in another order.
            beyond = beyond.with_for_update(skip_locked=True)
            with self._database.write() as session:
                session.exec(delete(RejectionRow).where(col(RejectionRow.id).in_(beyond)))


class _Room:
    """What room there is for more that looks like Meld's, by reason."""

    def __init__(self, *, rows: int, size: int) -> None:
        self._most = (rows, size)
        self._left: dict[str, tuple[int, int]] = {}

    def count(self, session: Session) -> None:
        waiting = select(RejectionRow.reason, func.count(), func.sum(RejectionRow.size)).where(
            col(RejectionRow.is_likely), col(RejectionRow.admitted_at).is_(None)
        )
        counts = session.exec(waiting.group_by(col(RejectionRow.reason))).all()
        rows, size = self._most
        self._left = {reason: (rows - count, size - int(total)) for reason, count, total in counts}

    def take(self, reason: str, size: int) -> bool:
        rows_left, size_left = self._left.get(reason, self._most)
        if rows_left < 1 or size_left < size:
            return False
        self._left[reason] = rows_left - 1, size_left - size
        return True


def is_whole(size: int) -> bool:
    """Return whether the whole of a body is kept."""
    return size <= MAX_REJECTED_BODY_BYTES


def _digest(refused: RefusedWebhook) -> str:
    return hashlib.sha256(f"{refused.reason} {refused.size}\n".encode() + refused.body).hexdigest()


def _latest(refused: RefusedWebhook) -> dict[str, Any]:
    """Return what is kept as it came last: Meld may sign a retry anew."""
    headers = {name: clean(value) for name, value in refused.headers.items()}
    signed_at = signature_time(headers.get(TIMESTAMP.decode(), "").encode("latin-1", "replace"))
    return {
        "received_at": refused.received_at,
        "off_seconds": (refused.received_at - signed_at).total_seconds() if signed_at is not None else None,
        "headers": headers,
    }


def _upsert(database: Database) -> Executable:
    insert = database.insert(RejectionRow)
    latest = {name: insert.excluded[name] for name in ("received_at", "off_seconds", "headers")}
    again = {"times": RejectionRow.times + insert.excluded["times"], **latest}
    return insert.on_conflict_do_update(index_elements=["digest"], set_=again)
