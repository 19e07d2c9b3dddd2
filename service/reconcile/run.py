"""Reconcile: page through Meld's list, and mend what the mirror has otherwise. What differed is the drift.

Every page is one commit with the place that it ends at, so that a reconcile that was killed goes on behind its last
page. One runs at a time, whichever process it is in. It heeds the workers' pause, and raises it as they do.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from sqlalchemy import update
from sqlmodel import Session, col, select

from runtime import audit, logs
from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import MeldwatchError, OutOfReachError
from runtime.queues import circuit_breaker, reads
from runtime.queues.task_lease import TaskLease
from schemas.meld.connection import TERMINAL, Snapshot
from schemas.meld.read_outcome import ListPage, PageOutcome, Refused, Throttled, Unavailable, Unreadable
from schemas.tables import ConnectionRow, ReadRequestRow, ReconcileRunRow, TaskLeaseRow
from service.reconcile.drift import compare
from service.reconcile.report import ReconcileReport, count, report_of

log = logs.get(__name__)

NAME = "reconcile"
LOOK_SECONDS = 1.0
REFUSED_SECONDS = 20.0
FAILED_SECONDS = 5.0
MOST_FAILURES = 10
"""Failures in a row after which it is left for later; what it has done stays done."""

OLDEST_SECONDS = 86400.0
"""How long ago an interrupted reconcile may have begun to be gone on with: what it saw must not be too old."""

CHUNK = 500


class BusyError(MeldwatchError):
    """Another reconcile is running; this one was not begun."""


class Lister(Protocol):
    """What a reconcile needs of Meld."""

    def page(self, *, after: str | None = None) -> PageOutcome:
        """Read one page of the list of all connections."""


Importer = Callable[[Session, Sequence[Snapshot], datetime, datetime], tuple[list[str], list[str]]]
"""Takes never-seen connections into the mirror; returns those taken, and the workers to call."""


class Reconcile:
    """Runs reconciles.

    Args:
        database: The database.
        lister: Meld.
        adopt: Takes never-seen connections into the mirror.
        call: Calls workers for connections; may raise ``OutOfReachError``, then the clock does.
        clock: The present, for when a page was asked for.
        holder: Names this process in the lease.
        lease_seconds: How long the lease lasts: longer than a read of a page.
        wait: Waits for so many seconds; returns whether to end.
        notify: Told after a commit that took connections into the mirror: each is an event.
    """

    def __init__(
        self,
        *,
        database: Database,
        lister: Lister,
        adopt: Importer,
        call: Callable[[Collection[str]], None],
        clock: Clock,
        holder: str,
        lease_seconds: float,
        wait: Callable[[float], bool],
        notify: Callable[[], None],
    ) -> None:
        self._database = database
        self._lister = lister
        self._adopt = adopt
        self._call = call
        self._clock = clock
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._turn = TaskLease(database=database, name=NAME, holder=holder, seconds=lease_seconds)
        self._wait = wait
        self._notify = notify

    def run(
        self, progress: Callable[[ReconcileRunRow], None] = lambda _sweep: None, *, who: str | None = None
    ) -> ReconcileReport:
        """Reconcile, or go on with one that was interrupted, to the end.

        Args:
            progress: Told after every page.
            who: The operator; None where it is time for it, and nobody's act.

        Raises:
            BusyError: Where another one is running.
            OutOfReachError: Where Meld or the database does not answer for long; the next run goes on from here.
        """
        sweep = self._begin(who)
        passed: set[str] = set()
        try:
            while True:
                began_at = self._clock()
                page = self._page(sweep.after)
                sweep = self._take(sweep, page, began_at)
                progress(sweep)
                # A key that comes again would lead round for ever.
                if page.after is None or page.after in passed:
                    break
                passed.add(page.after)
            return self._finish(sweep)
        finally:
            self._end()

    def is_due(self, every_seconds: float) -> bool:
        """Return whether it is time for a reconcile: the last one began so long ago, or was interrupted.

        A service that has never done one waits as long, from the first time that it is asked.
        """
        with self._database.write() as session:
            now = session.exec(select(self._database.now())).one()
            lease = session.get(TaskLeaseRow, NAME)
            if lease is None:
                session.add(TaskLeaseRow(name=NAME, holder=self._holder, until=now, ran_at=now))
                return False
            newest = session.exec(select(ReconcileRunRow).order_by(col(ReconcileRunRow.id).desc()).limit(1)).first()
            if lease.until > now:
                return False
            if newest is not None and newest.finished_at is None:
                return True  # interrupted
            last = newest.started_at if newest is not None else lease.ran_at
            return last is None or (now - last).total_seconds() >= every_seconds

    def _begin(self, who: str | None) -> ReconcileRunRow:
        """Take the lease, and take up what was interrupted. One that was killed held the lease; so it is waited for."""
        waited = 0.0
        while True:
            try:
                return self._take_up(who)
            except BusyError:
                if waited > self._lease_seconds:
                    raise
            self._rest(LOOK_SECONDS)
            waited += LOOK_SECONDS

    def _take_up(self, who: str | None) -> ReconcileRunRow:
        with self._database.write() as session:
            self._hold(session)
            unfinished = select(ReconcileRunRow).where(
                col(ReconcileRunRow.finished_at).is_(None),
                col(ReconcileRunRow.started_at) > self._database.now(-OLDEST_SECONDS),
            )
            sweep = session.exec(unfinished.order_by(col(ReconcileRunRow.id).desc()).limit(1)).first()
            if sweep is None:
                sweep = ReconcileRunRow(started_at=session.exec(select(self._database.now())).one(), examples={})
                session.add(sweep)
                session.flush()
            if who is not None:
                audit.note(self._database, session, who=who, act="reconcile.begun", subject=str(sweep.id))
        return sweep

    def _hold(self, session: Session) -> None:
        """Take the lease, or make it last: one reconcile at a time, whichever process it is in."""
        if not self._turn.take(session):
            raise BusyError("Another reconcile is running. Wait until it has ended.")

    def _end(self) -> None:
        with suppress(OutOfReachError), self._database.write() as session:
            self._turn.leave(session)

    def _page(self, after: str | None) -> ListPage:
        """Read a page, whatever it takes within bounds: pauses are waited for, failures tried again."""
        for failures in range(MOST_FAILURES):
            self._wait_for_gate()
            outcome = self._lister.page(after=after)
            with self._database.write() as session:
                self._hold(session)
                if isinstance(outcome, ListPage):
                    circuit_breaker.open_(session)
                    return outcome
                self._pause(session, outcome)
            log.warning("page not read", outcome=type(outcome).__name__.lower(), failures=failures + 1)
            asked = outcome.retry_after if isinstance(outcome, Unavailable) else None
            self._rest(max(asked or 0, FAILED_SECONDS))
        raise OutOfReachError("Meld's list cannot be read. What was done stays done; run it again to go on.")

    def _pause(self, session: Session, outcome: Throttled | Refused | Unavailable | Unreadable) -> None:
        """Pause everybody for what speaks of Meld or of our credentials."""
        match outcome:
            case Throttled(retry_after):
                seconds = FAILED_SECONDS if retry_after is None else max(retry_after, 1.0)
                circuit_breaker.close(
                    self._database, session, reason="throttled", detail="Meld answered 429", seconds=seconds
                )
            case Refused(detail):
                circuit_breaker.close(self._database, session, reason="refused", detail=detail, seconds=REFUSED_SECONDS)
            case Unavailable() | Unreadable():
                log.warning("Meld's list", detail=outcome.detail)

    def _wait_for_gate(self) -> None:
        while True:
            with self._database.write() as session:
                self._hold(session)
                if circuit_breaker.enter(self._database, session, probe_seconds=LOOK_SECONDS * 30) != "closed":
                    return
            self._rest(LOOK_SECONDS)

    def _rest(self, seconds: float) -> None:
        """Wait, and keep the lease meanwhile."""
        while not self._wait(min(seconds, FAILED_SECONDS)):
            seconds -= FAILED_SECONDS
            if seconds <= 0:
                return
            with self._database.write() as session:
                self._hold(session)
        raise OutOfReachError("Reconcile was told to end. Run it again to go on.")

    def _take(self, sweep: ReconcileRunRow, page: ListPage, began_at: datetime) -> ReconcileRunRow:
        """Write down what a page says, in one commit with the place where it ends."""
        # An item that has shifted may stand on a page twice.
        snapshots = list({snapshot.id: snapshot for snapshot in page.snapshots}.values())
        with self._database.write() as session:
            self._hold(session)
            sweep = session.merge(sweep)
            ids = [snapshot.id for snapshot in snapshots]
            # Before the mirror is looked at: behind these locks no worker can write what the page would overwrite.
            if snapshots:
                reads.lock(self._database, session, {id_ for snapshot in snapshots for id_ in _names(snapshot)})
            stored = {
                row.id: row for row in session.exec(select(ConnectionRow).where(col(ConnectionRow.id).in_(ids))).all()
            }
            drift = compare(snapshots, stored, began_at, owed=self._owed(session, ids))
            adopted, calls = self._adopt(session, drift.unseen, began_at, self._clock())
            dead = self._dead(session, ids)
            calls = [*calls, *reads.raise_jobs(self._database, session, [*drift.changed, *dead], "reconcile")]
            session.exec(update(ConnectionRow).where(col(ConnectionRow.id).in_(ids)).values(reconcile_run_id=sweep.id))
            sweep.after, sweep.pages = page.after or sweep.after, sweep.pages + 1
            sweep.listed, sweep.unreadable = sweep.listed + len(ids), sweep.unreadable + page.unreadable
            count(sweep, "unseen", [*adopted, *(id_ for id_ in dead if id_ not in stored)])
            count(sweep, "changed", drift.changed)
        if adopted:
            self._notify()
        self._call_workers(calls)
        return sweep

    def _owed(self, session: Session, ids: Collection[str]) -> set[str]:
        owed = select(ReadRequestRow.connection_id).where(
            col(ReadRequestRow.connection_id).in_(ids),
            ReadRequestRow.requested > ReadRequestRow.completed,
            col(ReadRequestRow.due_at).is_not(None),
        )
        return set(session.exec(owed).all())

    def _dead(self, session: Session, ids: Collection[str]) -> list[str]:
        """Return whose reads were given up for good: that Meld lists them says that it is worth while again."""
        dead = select(ReadRequestRow.connection_id).where(
            col(ReadRequestRow.connection_id).in_(ids),
            col(ReadRequestRow.failed_at).is_not(None),
            col(ReadRequestRow.due_at).is_(None),
        )
        return sorted(session.exec(dead).all())

    def _finish(self, sweep: ReconcileRunRow) -> ReconcileReport:
        """Ask for what the list lacks although it was there before, and close the book."""
        after = ""
        while True:
            with self._database.write() as session:
                self._hold(session)
                sweep = session.merge(sweep)
                missing = self._missing(session, sweep, after)
                calls = reads.raise_jobs(self._database, session, missing, "reconcile")
                count(sweep, "missing", missing)
                if len(missing) < CHUNK:
                    sweep.finished_at = session.exec(select(self._database.now())).one()
            self._call_workers(calls)
            if len(missing) < CHUNK:
                return report_of(sweep)
            after = missing[-1]

    def _missing(self, session: Session, sweep: ReconcileRunRow, after: str) -> list[str]:
        statement = (
            select(ConnectionRow.id)
            .join(ReadRequestRow, col(ReadRequestRow.connection_id) == col(ConnectionRow.id))
            .where(
                col(ConnectionRow.id) > after,
                col(ConnectionRow.reconcile_run_id).is_distinct_from(sweep.id),
                col(ConnectionRow.status).not_in(TERMINAL),
                col(ConnectionRow.checked_at) < sweep.started_at,
                col(ReadRequestRow.requested) == col(ReadRequestRow.completed),
            )
            .order_by(col(ConnectionRow.id))
        )
        return list(session.exec(statement.limit(CHUNK)).all())

    def _call_workers(self, connection_ids: Collection[str]) -> None:
        # The clock calls for those that the broker does not take.
        with suppress(OutOfReachError):
            self._call(connection_ids)


def _names(snapshot: Snapshot) -> set[str]:
    return {snapshot.id, *snapshot.duplicate_ids, snapshot.primary_duplicate_id or snapshot.id}
