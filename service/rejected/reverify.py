"""Verification of stored rejections with the present secrets and URLs; the valid ones are stored as new webhooks.

A signature's time is compared with the time at which the request was received, not with the present. A webhook is
stored first, and its rejection marked as admitted afterwards. A run that is killed in between verifies it again, and
recognizes the stored webhook by its event id.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, update
from sqlmodel import col, select

from runtime import audit
from runtime.database import Database
from runtime.errors import EncryptionError
from runtime.security.encryption import Encryption
from schemas.meld.webhook import ReceivedWebhook
from schemas.tables import RejectionRow, WebhookRow
from service.ingest.batch_bisection import write_bisecting
from service.ingest.inbox import WebhookTable
from service.ingest.payload import parse_hint, webhook_event_id
from service.ingest.signature import SignatureRefusal, SignatureVerifier
from service.rejected.limits import MAX_REJECTED_BODY_BYTES

CHUNK_SIZE = 100
"""Rows in memory at once, and webhooks in one commit."""


@dataclass(slots=True)
class ReverifyResult:
    """Result of a run. The names are those of the command's JSON output.

    Attributes:
        admitted: Rejections that are valid now and were stored as webhooks.
        repeats: Rejections that are valid now, of webhooks that were stored already.
        refused: Rejections that are still not valid, by the present reason.
        truncated: Rejections that cannot be verified, because only the beginning of the body was stored.
        sealed: Rejections that cannot be decrypted with the present keys.
        unstorable: Valid rejections that the database rejects as webhooks.
        is_suspicious: Whether a likely one (see ``service.rejected.limits``) is still not valid.
    """

    admitted: int = 0
    repeats: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    sealed: int = 0
    unstorable: int = 0
    is_suspicious: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether no rejection needs an operator's attention."""
        return not self.is_suspicious and not self.unstorable


@dataclass(frozen=True, slots=True)
class _ValidRejection:
    """A rejection whose signature is valid now."""

    digest: str
    webhook: ReceivedWebhook

    @property
    def event_id(self) -> str:
        return webhook_event_id(self.webhook)


class RejectionReverifier:
    """Verifies all rejections that are not admitted yet.

    Args:
        database: The database.
        encryption: Decrypts the bodies.
        verifier: Verifies signatures with the present settings.
        table: Stores webhooks; ``run`` closes it.
        notify_workers: Notifies a worker for each given connection id.
        chunk_size: Rejections of one chunk.
    """

    def __init__(
        self,
        *,
        database: Database,
        encryption: Encryption,
        verifier: SignatureVerifier,
        table: WebhookTable,
        notify_workers: Callable[[Collection[str]], None],
        chunk_size: int = CHUNK_SIZE,
    ) -> None:
        self._database = database
        self._encryption = encryption
        self._verifier = verifier
        self._table = table
        self._notify_workers = notify_workers
        self._chunk_size = chunk_size

    def run(self, *, who: str, is_dry: bool, progress: Callable[[int], None]) -> ReverifyResult:
        """Verify all rejections, in the order in which they were first received.

        Args:
            who: The operator, for the audit log.
            is_dry: Whether to write nothing (dry run).
            progress: Called with the number of rejections verified so far.

        Raises:
            OutOfReachError: The database does not answer. Admitted webhooks stay stored; another run does the rest.
        """
        result = ReverifyResult()
        verified = 0
        try:
            for rows in self._chunks(result):
                valid = [rejection for row in rows if (rejection := self._verify(row, result)) is not None]
                self._admit(valid, result, who=None if is_dry else who)
                progress(verified := verified + len(rows))
        finally:
            self._table.close()
        return result

    def _chunks(self, result: ReverifyResult) -> Iterator[Sequence[RejectionRow]]:
        """Yield the rejections that exist at the start of the run, so that it ends however many arrive meanwhile."""
        pending, after = col(RejectionRow.admitted_at).is_(None), 0
        whole = col(RejectionRow.size) <= MAX_REJECTED_BODY_BYTES
        with self._database.read() as session:
            last = session.exec(select(func.max(RejectionRow.id))).one() or 0
            result.truncated = session.exec(select(func.count()).where(pending, ~whole)).one()
        while True:
            chunk = select(RejectionRow).where(
                pending, whole, col(RejectionRow.id) > after, col(RejectionRow.id) <= last
            )
            with self._database.read() as session:
                rows = session.exec(chunk.order_by(col(RejectionRow.id)).limit(self._chunk_size)).all()
            if not rows:
                return
            yield rows
            after = rows[-1].id or last

    def _verify(self, row: RejectionRow, result: ReverifyResult) -> _ValidRejection | None:
        headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in row.headers.items()]
        try:
            body = self._encryption.decrypt_bytes(row.body, row.encrypted_with)
        except EncryptionError:
            result.sealed += 1
            result.is_suspicious |= row.is_likely
            return None
        verdict = self._verifier.verify(headers, body, row.received_at)
        if isinstance(verdict, SignatureRefusal):
            result.refused[verdict.reason] += 1
            result.is_suspicious |= row.is_likely
            return None
        webhook = ReceivedWebhook(body, row.headers, verdict.url, verdict.signed_at, parse_hint(body))
        return _ValidRejection(row.digest, webhook)

    def _admit(self, valid: Sequence[_ValidRejection], result: ReverifyResult, *, who: str | None) -> None:
        """Store valid rejections as webhooks, each event once, and mark them; only count them if ``who`` is None."""
        new = self._select_new(valid)
        if who is not None:
            failed = {rejection.event_id for rejection, _error in write_bisecting(new, self._store)}
            result.unstorable += len(failed)
            new, valid = ([each for each in some if each.event_id not in failed] for some in (new, valid))
            self._mark_admitted(valid, who, admitted=len(new))
        result.admitted += len(new)
        result.repeats += len(valid) - len(new)

    def _select_new(self, valid: Sequence[_ValidRejection]) -> list[_ValidRejection]:
        """Return one rejection for each event that is not stored as a webhook."""
        first = {rejection.event_id: rejection for rejection in reversed(valid)}
        with self._database.read() as session:
            known = set(session.exec(select(WebhookRow.event_id).where(col(WebhookRow.event_id).in_(first))).all())
        return [each for each in valid if first[each.event_id] is each and each.event_id not in known]

    def _store(self, new: Sequence[_ValidRejection]) -> None:
        connection_ids = self._table.insert([rejection.webhook for rejection in new]) if new else []
        if connection_ids:
            self._notify_workers(connection_ids)

    def _mark_admitted(self, valid: Sequence[_ValidRejection], who: str, *, admitted: int) -> None:
        if not valid:
            return
        with self._database.write() as session:
            # In the order in which RejectionStore locks the rows of repeats.
            for rejection in sorted(valid, key=lambda each: each.digest):
                statement = update(RejectionRow).where(
                    col(RejectionRow.digest) == rejection.digest, col(RejectionRow.admitted_at).is_(None)
                )
                session.exec(statement.values(admitted_at=self._database.now(), event_id=rejection.event_id))
            details = {"admitted": admitted, "repeats": len(valid) - admitted}
            audit.append_entry(self._database, session, who=who, act="webhooks.reverified", details=details)
