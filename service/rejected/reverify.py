"""Reverify: what was refused is tried against the present secrets and URLs; what passes is stored as if it arrived now.

Its time is held against the moment at which it was received, not against now: it was fresh then. Storing comes first
and its note after it, so that whatever is killed in between is tried once more, and known by its event id.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, update
from sqlmodel import col, select

from runtime import audit
from runtime.database import Database
from runtime.errors import EncryptionError, OutOfReachError
from runtime.security.encryption import Encryption
from schemas.meld.webhook import MAX_REJECTED_BODY_BYTES, ReceivedWebhook
from schemas.tables import RejectionRow, WebhookRow
from service.ingest.inbox import WebhookTable
from service.ingest.payload import read_hint
from service.ingest.signature import Refusal, SignatureVerifier
from service.ingest.webhook_insert import event_id_of

CHUNK = 100
"""Rows in memory at once, and webhooks in one commit."""


@dataclass(slots=True)
class Reverified:
    """What trying them again came to.

    Attributes:
        admitted: How many passed and are stored.
        repeats: How many passed and were stored already, as Meld had sent them again.
        refused: How many did not pass, by the reason of now.
        truncated: How many cannot be tried, since their end was not kept.
        sealed: How many cannot be opened with the keys that are set.
        unstorable: How many passed, and the database refuses them.
        is_suspicious: Whether any that looks like Meld's did not pass.
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
        """Whether nothing is left that somebody should look at."""
        return not self.is_suspicious and not self.unstorable


@dataclass(frozen=True, slots=True)
class _Passed:
    """A refused webhook that passes now."""

    digest: str
    delivery: ReceivedWebhook

    @property
    def event_id(self) -> str:
        return event_id_of(self.delivery)


class Reverify:
    """Tries all that was refused and not admitted yet.

    Args:
        database: The database.
        vault: Opens the bodies.
        verifier: Tells whether one is Meld's, by the present settings.
        table: The inbox's; closed at the end.
        call: Calls workers for connections.
        chunk: How many are tried at a time.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Encryption,
        verifier: SignatureVerifier,
        table: WebhookTable,
        call: Callable[[Collection[str]], None],
        chunk: int = CHUNK,
    ) -> None:
        self._database = database
        self._vault = vault
        self._verifier = verifier
        self._table = table
        self._call = call
        self._chunk = chunk

    def run(self, *, who: str, is_dry: bool, progress: Callable[[int], None]) -> Reverified:
        """Try them all, in the order in which they first came.

        Args:
            who: The operator.
            is_dry: Whether to write nothing.
            progress: Told how many were tried so far.

        Raises:
            OutOfReachError: The database does not answer; what was admitted stays so, and the rest is tried next time.
        """
        came_to = Reverified()
        tried = 0
        try:
            for rows in self._chunks(came_to):
                passed = [each for row in rows if (each := self._passed(row, came_to)) is not None]
                self._admit(passed, came_to, who=None if is_dry else who)
                progress(tried := tried + len(rows))
        finally:
            self._table.close()
        return came_to

    def _chunks(self, came_to: Reverified) -> Iterator[Sequence[RejectionRow]]:
        """Yield those that are there now: what is refused meanwhile is not waited for."""
        waiting, after = col(RejectionRow.admitted_at).is_(None), 0
        whole = col(RejectionRow.size) <= MAX_REJECTED_BODY_BYTES
        with self._database.read() as session:
            last = session.exec(select(func.max(RejectionRow.id))).one() or 0
            came_to.truncated = session.exec(select(func.count()).where(waiting, ~whole)).one()
        while True:
            mine = select(RejectionRow).where(
                waiting, whole, col(RejectionRow.id) > after, col(RejectionRow.id) <= last
            )
            with self._database.read() as session:
                rows = session.exec(mine.order_by(col(RejectionRow.id)).limit(self._chunk)).all()
            if not rows:
                return
            yield rows
            after = rows[-1].id or last

    def _passed(self, row: RejectionRow, came_to: Reverified) -> _Passed | None:
        headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in row.headers.items()]
        try:
            body = self._vault.open_bytes(row.body, row.encrypted_with)
        except EncryptionError:
            came_to.sealed += 1
            came_to.is_suspicious |= row.is_likely
            return None
        verdict = self._verifier.verify(headers, body, row.received_at)
        if isinstance(verdict, Refusal):
            came_to.refused[verdict.reason] += 1
            came_to.is_suspicious |= row.is_likely
            return None
        delivery = ReceivedWebhook(body, row.headers, verdict.url, verdict.signed_at, read_hint(body))
        return _Passed(row.digest, delivery)

    def _admit(self, passed: Sequence[_Passed], came_to: Reverified, *, who: str | None) -> None:
        """Store what passed, each once, and note it; only count it where nobody is named who does."""
        new = self._new(passed)
        if who is not None:
            failed = {each.event_id for each in self._store(new)}
            came_to.unstorable += len(failed)
            new, passed = ([each for each in some if each.event_id not in failed] for some in (new, passed))
            self._note(passed, who, admitted=len(new))
        came_to.admitted += len(new)
        came_to.repeats += len(passed) - len(new)

    def _new(self, passed: Sequence[_Passed]) -> list[_Passed]:
        """Return those that are not stored yet, each event once."""
        first = {each.event_id: each for each in reversed(passed)}
        with self._database.read() as session:
            known = set(session.exec(select(WebhookRow.event_id).where(col(WebhookRow.event_id).in_(first))).all())
        return [each for each in passed if first[each.event_id] is each and each.event_id not in known]

    def _store(self, new: Sequence[_Passed]) -> list[_Passed]:
        """Store webhooks as arrivals are, and have their connections read; return those that cannot be stored."""
        if not new:
            return []
        try:
            calls = self._table.insert([each.delivery for each in new])
        except OutOfReachError:
            raise
        except Exception:  # noqa: BLE001 - whatever one is made of, the others must not suffer for it
            if len(new) == 1:
                return list(new)
            middle = len(new) // 2
            return self._store(new[:middle]) + self._store(new[middle:])
        if calls:
            self._call(calls)
        return []

    def _note(self, passed: Sequence[_Passed], who: str, *, admitted: int) -> None:
        if not passed:
            return
        with self._database.write() as session:
            # In the order in which those are locked that come again.
            for each in sorted(passed, key=lambda each: each.digest):
                mine = update(RejectionRow).where(
                    col(RejectionRow.digest) == each.digest, col(RejectionRow.admitted_at).is_(None)
                )
                session.exec(mine.values(admitted_at=self._database.now(), event_id=each.event_id))
            details = {"admitted": admitted, "repeats": len(passed) - admitted}
            audit.note(self._database, session, who=who, act="webhooks.reverified", details=details)
