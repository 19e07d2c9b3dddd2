"""Foresee: what reads would change, had they been made in earnest. Nothing is written: no job, no pause, no note.

Meld is read, the mirror is looked at, and the decision is that of ``apply.py``. What Meld says by then may be something
else.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from time import monotonic

from sqlalchemy import literal
from sqlalchemy import select as select_values
from sqlmodel import Session, col, select

from runtime import connection_diff
from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import circuit_breaker
from schemas.connection_changes import Change
from schemas.meld.read_outcome import Absent, Found, ReadOutcome, Refused, Throttled, Unavailable
from schemas.replays import ReadPreview, EventPreview
from schemas.tables import ConnectionRow
from schemas.tables.column_types import Document
from workers.refetch.commit import account_of, believes_absence
from workers.refetch.decision import MirrorState, decide, named
from workers.refetch.mirror_row import Reading, mirror_of, state_of
from workers.refetch.refetch import MeldReader
from workers.refetch.retry_policy import FIRST_DELAY, OUTAGE_FAILURES, Failure, judge

PATIENCE_SECONDS = 120.0
"""How long a pause of reads, or a Meld that throttles, is waited for."""

LOOK_SECONDS = 1.0


class RefetchPreview:
    """Looks ahead at reads, at most so many a second.

    Args:
        database: The mirror.
        reader: Meld.
        clock: The present, for when a read would have begun and ended.
        rate: Reads a second.
        wait: Waits for so many seconds; returns whether to end.
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
        self._is_let_in = False

    def look(self, connection_ids: Iterable[str]) -> Iterator[ReadPreview]:
        """Yield what a read of each connection would change.

        Raises:
            OutOfReachError: Where Meld refuses our credentials, throttles for long, or fails for one after another.
        """
        for connection_id in connection_ids:
            began = monotonic()
            yield self._foresee(connection_id)
            if self._wait(max(1 / self._rate - (monotonic() - began), 0)):
                return

    def _foresee(self, connection_id: str) -> ReadPreview:
        self._wait_for_gate()
        began_at = self._clock()
        outcome = self._read(connection_id)
        self._mind(outcome)
        with self._database.snapshot() as session:
            return foresee(session, connection_id, outcome, began_at, self._clock())

    def _wait_for_gate(self) -> None:
        """Let others' pause go by. When its time is up this read finds out, without telling anybody, if it is over."""
        waited = 0.0
        while True:
            with self._database.read() as session:
                pause = circuit_breaker.get_open_circuit(session)
                now = session.exec(select(self._database.now())).one()
            if pause is None or pause.until <= now:
                return
            if waited >= PATIENCE_SECONDS or pause.reason == "refused":
                raise OutOfReachError(f"Reads of Meld are paused: {pause.detail}. Try again when they are not.")
            self._rest(LOOK_SECONDS)
            waited += LOOK_SECONDS

    def _read(self, connection_id: str) -> ReadOutcome:
        waited = 0.0
        while True:
            outcome = self._reader.read(connection_id)
            if not isinstance(outcome, Throttled):
                return outcome
            seconds = max(outcome.retry_after or waited, FIRST_DELAY)
            if waited + seconds > PATIENCE_SECONDS:
                raise OutOfReachError("Meld answers 429 again and again. Try again later, or at a lower rate.")
            self._rest(seconds)
            waited += seconds

    def _mind(self, outcome: ReadOutcome) -> None:
        """See whether it is Meld, or we, that fails, rather than the connection."""
        if isinstance(outcome, Refused) and not self._is_let_in:
            raise OutOfReachError(f"{outcome.detail}: it refuses our credentials. Check MELDWATCH_MELD_API_KEY.")
        is_failure = isinstance(outcome, Refused | Unavailable)
        self._failures = self._failures + 1 if is_failure else 0
        self._is_let_in = self._is_let_in or not is_failure
        if self._failures >= OUTAGE_FAILURES and isinstance(outcome, Refused | Unavailable):
            raise OutOfReachError(f"Meld fails for one connection after another: {outcome.detail}.")

    def _rest(self, seconds: float) -> None:
        if self._wait(seconds):
            raise OutOfReachError("It was told to end before Meld had answered.")


def foresee(
    session: Session, connection_id: str, outcome: ReadOutcome, began_at: datetime, ended_at: datetime
) -> ReadPreview:
    """Return what a read with this outcome would change of the mirror as it is."""
    snapshot = outcome.snapshot if isinstance(outcome, Found) else None
    if not isinstance(outcome, Found) and not (
        isinstance(outcome, Absent) and believes_absence(session, connection_id)
    ):
        return ReadPreview(connection_id=connection_id, failure=_words(outcome))
    row = session.get(ConnectionRow, connection_id)
    reading = Reading(snapshot, began_at, ended_at)
    mirror = mirror_of(connection_id, account_of(session, connection_id, row, reading), row, reading)
    if row is not None and row.digest == mirror.digest:
        return ReadPreview(connection_id=connection_id)
    _write_as_stored(session, mirror)
    before, after = state_of(row) if row is not None else None, state_of(mirror)
    decision = decide(before, after, _group(session, before, after), None)
    return ReadPreview(
        connection_id=connection_id,
        changes=connection_diff.diff_connections(row, mirror),
        unshown_changes=connection_diff.list_hidden_changes(row, mirror),
        events=list(map(_event, decision.changes)),
        siblings=sorted(decision.siblings) if decision.is_regrouped else [],
    )


def _write_as_stored(session: Session, mirror: ConnectionRow) -> None:
    """Have documents as the database would give them back, which may write a number otherwise than Meld does."""
    documents = (literal(document, Document) for document in (mirror.service_provider_details, mirror.document))
    stored = list(session.connection().execute(select_values(*documents)).one())
    mirror.service_provider_details, mirror.document = stored


def _event(change: Change) -> EventPreview:
    told = change.model_dump(include={"previous", "current", "role"})
    return EventPreview.model_validate({"type": change.type, **told})


def _words(failure: Failure) -> str:
    return judge(failure, attempts=1, failures=1, is_fresh=True, jitter=0).detail


def _group(session: Session, before: MirrorState | None, after: MirrorState) -> Mapping[str, MirrorState]:
    rows = select(ConnectionRow).where(col(ConnectionRow.id).in_(named(before, after)))
    return {row.id: state_of(row) for row in session.exec(rows).all()}
