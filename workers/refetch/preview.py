"""Dry run of a replay of webhooks: preview what reads would change. Nothing is written, not even the circuit breaker.

It reads Meld and makes the decision of ``workers/refetch/commit.py`` against the present mirror. When the replay runs,
Meld's answers may be different ones.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from time import monotonic

from sqlalchemy import literal
from sqlalchemy import select as select_values
from sqlmodel import Session, col, select

from runtime import field_diff
from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import circuit_breaker
from schemas.connection_changes import Change
from schemas.meld.read_outcome import Absent, Found, ReadOutcome, Refused, Throttled, Unavailable
from schemas.replays import EventPreview, ReadPreview
from schemas.tables import ConnectionRow
from schemas.tables.column_types import Document
from workers.refetch.commit import find_account_id, is_known_deleted
from workers.refetch.decision import MirrorState, decide, group_members
from workers.refetch.mirror_row import Reading, build_mirror_row, mirror_state
from workers.refetch.refetch import MeldReader
from workers.refetch.retry_policy import FIRST_BACKOFF_SECONDS, MIN_OUTAGE_FAILURES, Failure, decide_retry

MAX_WAIT_SECONDS = 120.0
"""How long it waits for an open circuit breaker, or while Meld answers 429."""

POLL_SECONDS = 1.0


class RefetchPreview:
    """Previews reads, with a rate limit.

    Args:
        database: The mirror.
        reader: The client of Meld.
        clock: Returns the present, for the begin and the end of a read.
        rate: The rate limit, in reads a second.
        wait: Waits for a number of seconds; returns whether to stop.
    """

    def __init__(
        self, *, database: Database, reader: MeldReader, clock: Clock, rate: float, wait: Callable[[float], bool]
    ) -> None:
        self._database = database
        self._reader = reader
        self._clock = clock
        self._rate = rate
        self._wait = wait
        self._failures = 0
        self._has_succeeded = False

    def preview(self, connection_ids: Iterable[str]) -> Iterator[ReadPreview]:
        """Yield what a read of each connection would change.

        Raises:
            OutOfReachError: If Meld refuses our credentials, throttles for long, or fails repeatedly.
        """
        for connection_id in connection_ids:
            began = monotonic()
            yield self._preview(connection_id)
            if self._wait(max(1 / self._rate - (monotonic() - began), 0)):
                return

    def _preview(self, connection_id: str) -> ReadPreview:
        self._wait_for_circuit_breaker()
        began_at = self._clock()
        outcome = self._read(connection_id)
        self._check_for_outage(outcome)
        with self._database.snapshot() as session:
            return preview_read(session, connection_id, outcome, began_at, self._clock())

    def _wait_for_circuit_breaker(self) -> None:
        """Wait while the circuit breaker is open. When it is half-open, the read goes on and does not update it."""
        waited = 0.0
        while True:
            with self._database.read() as session:
                circuit = circuit_breaker.get_open_circuit(session)
                now = session.exec(select(self._database.now())).one()
            if circuit is None or circuit.until <= now:
                return
            if waited >= MAX_WAIT_SECONDS or circuit.reason == "refused":
                raise OutOfReachError(f"Reads of Meld are paused: {circuit.detail}. Try again when they are not.")
            self._wait_or_stop(POLL_SECONDS)
            waited += POLL_SECONDS

    def _read(self, connection_id: str) -> ReadOutcome:
        waited = 0.0
        while True:
            outcome = self._reader.read(connection_id)
            if not isinstance(outcome, Throttled):
                return outcome
            seconds = max(outcome.retry_after or waited, FIRST_BACKOFF_SECONDS)
            if waited + seconds > MAX_WAIT_SECONDS:
                raise OutOfReachError("Meld answers 429 again and again. Try again later, or at a lower rate.")
            self._wait_or_stop(seconds)
            waited += seconds

    def _check_for_outage(self, outcome: ReadOutcome) -> None:
        """Raise if the failure concerns Meld or our credentials rather than the connection."""
        if isinstance(outcome, Refused) and not self._has_succeeded:
            raise OutOfReachError(f"{outcome.detail}: it refuses our credentials. Check MELDWATCH_MELD_API_KEY.")
        is_failure = isinstance(outcome, Refused | Unavailable)
        self._failures = self._failures + 1 if is_failure else 0
        self._has_succeeded = self._has_succeeded or not is_failure
        if self._failures >= MIN_OUTAGE_FAILURES and isinstance(outcome, Refused | Unavailable):
            raise OutOfReachError(f"Meld fails for one connection after another: {outcome.detail}.")

    def _wait_or_stop(self, seconds: float) -> None:
        if self._wait(seconds):
            raise OutOfReachError("Stopped before Meld had answered.")


def preview_read(
    session: Session, connection_id: str, outcome: ReadOutcome, began_at: datetime, ended_at: datetime
) -> ReadPreview:
    """Return what a read with this outcome would change in the present mirror."""
    snapshot = outcome.snapshot if isinstance(outcome, Found) else None
    if not isinstance(outcome, Found) and not (
        isinstance(outcome, Absent) and is_known_deleted(session, connection_id)
    ):
        return ReadPreview(connection_id=connection_id, failure=_failure_detail(outcome))
    row = session.get(ConnectionRow, connection_id)
    reading = Reading(snapshot, began_at, ended_at)
    mirror = build_mirror_row(connection_id, find_account_id(session, connection_id, row, reading), row, reading)
    if row is not None and row.digest == mirror.digest:
        return ReadPreview(connection_id=connection_id)
    _normalize_documents(session, mirror)
    before, after = mirror_state(row) if row is not None else None, mirror_state(mirror)
    decision = decide(before, after, _group(session, before, after), None)
    return ReadPreview(
        connection_id=connection_id,
        changes=field_diff.diff_connections(row, mirror),
        unshown_changes=field_diff.list_hidden_changes(row, mirror),
        events=list(map(_event, decision.changes)),
        siblings=sorted(decision.siblings) if decision.is_group_changed else [],
    )


def _normalize_documents(session: Session, mirror: ConnectionRow) -> None:
    """Convert documents to what the database would return, which may write a number differently than Meld does."""
    documents = (literal(document, Document) for document in (mirror.service_provider_details, mirror.document))
    stored = list(session.connection().execute(select_values(*documents)).one())
    mirror.service_provider_details, mirror.document = stored


def _event(change: Change) -> EventPreview:
    fields = change.model_dump(include={"previous", "current", "role"})
    return EventPreview.model_validate({"type": change.type, **fields})


def _failure_detail(failure: Failure) -> str:
    return decide_retry(failure, attempts=1, failures=1, is_fresh=True, jitter=0).detail


def _group(session: Session, before: MirrorState | None, after: MirrorState) -> Mapping[str, MirrorState]:
    rows = select(ConnectionRow).where(col(ConnectionRow.id).in_(group_members(before, after)))
    return {row.id: mirror_state(row) for row in session.exec(rows).all()}
