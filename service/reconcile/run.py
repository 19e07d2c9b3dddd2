"""Reconcile: compare Meld's whole list with the mirror, page by page, and repair the drift.

Each page is one commit, together with the cursor at which it ends. So a reconcile that was killed resumes behind its
last page. A task lease lets one process at a time reconcile.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import update
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from runtime import audit
from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import MeldwatchError, OutOfReachError
from runtime.queues import reads
from runtime.queues.task_lease import TaskLease
from schemas.meld.connection import TERMINAL_STATUSES, Snapshot
from schemas.meld.read_outcome import ListPage
from schemas.tables import ConnectionRow, ReadRequestRow, ReconcileRunRow
from service.reconcile.drift import find_drift
from service.reconcile.list_reader import POLL_SECONDS, ConnectionLister, ListReader
from service.reconcile.report import ReconcileReport, add_drift, make_report

LEASE_NAME = "reconcile"

MAX_RESUME_AGE_SECONDS = 86400.0
"""The maximum age of an interrupted reconcile that is resumed: the pages that it has seen must not be too old."""

BATCH_SIZE = 500
"""Missing connections that one commit requests reads of."""


class ReconcileLeasedError(MeldwatchError):
    """Another process holds the lease of the reconcile."""


Importer = Callable[[Session, Sequence[Snapshot], datetime, datetime], tuple[list[str], list[str]]]
"""Imports new connections into the mirror; returns the imported ones, and those whose workers to notify."""


class Reconciler:
    """Runs reconciles.

    Args:
        database: The database.
        lister: Meld.
        import_connections: Imports new connections into the mirror.
        notify_workers: Notifies the workers of connections. If it raises ``OutOfReachError``, the scheduler does it.
        clock: Returns the present time: when a page was requested.
        holder: Names this process in the lease.
        lease_seconds: How long the lease lasts; longer than the read of a page.
        wait: Waits for so many seconds; returns whether this process is stopping.
        notify_feed: Called after a commit that imported connections: each of them appended an event.
    """

    def __init__(
        self,
        *,
        database: Database,
        lister: ConnectionLister,
        import_connections: Importer,
        notify_workers: Callable[[Collection[str]], None],
        clock: Clock,
        holder: str,
        lease_seconds: float,
        wait: Callable[[float], bool],
        notify_feed: Callable[[], None],
    ) -> None:
        self._database = database
        self._import_connections = import_connections
        self._notify_workers = notify_workers
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._notify_feed = notify_feed
        self._lease = TaskLease(
            database=database, name=LEASE_NAME, holder=holder, seconds=lease_seconds, is_run_on_acquire=False
        )
        self._list = ListReader(database=database, lister=lister, renew=self._renew, wait=wait)

    def run(
        self, progress: Callable[[ReconcileRunRow], None] = lambda _run: None, *, who: str | None = None
    ) -> ReconcileReport:
        """Reconcile to the end; resume an interrupted reconcile, if there is one.

        Args:
            progress: Called after each page.
            who: The operator; None if the reconcile is due by itself, which needs no audit entry.

        Raises:
            ReconcileLeasedError: If another process reconciles.
            OutOfReachError: If Meld or the database does not answer for long. The next run resumes this one.
        """
        run = self._begin(who)
        cursors: set[str] = set()
        try:
            while True:
                began_at = self._clock()
                page = self._list.read(run.after)
                run = self._record(run, page, began_at)
                progress(run)
                # A cursor that comes again would lead to an endless loop.
                if page.after is None or page.after in cursors:
                    break
                cursors.add(page.after)
            return self._finish(run)
        finally:
            with suppress(OutOfReachError), self._database.write() as session:
                self._lease.release(session)

    def is_due(self, every_seconds: float) -> bool:
        """Return whether a reconcile is due: the last one began so long ago, or was interrupted.

        The first one is due so long after the first call of this method.
        """
        with self._database.write() as session:
            # Version 0.1.0 does not mark the lease of an interrupted run; the run itself shows it.
            is_interrupted = session.exec(self._unfinished_run()).first() is not None
            return self._lease.is_due(session, 0 if is_interrupted else every_seconds)

    def _unfinished_run(self) -> SelectOfScalar[ReconcileRunRow]:
        """Select the newest run that was interrupted and can be resumed."""
        unfinished = select(ReconcileRunRow).where(
            col(ReconcileRunRow.finished_at).is_(None),
            col(ReconcileRunRow.started_at) > self._database.now(-MAX_RESUME_AGE_SECONDS),
        )
        return unfinished.order_by(col(ReconcileRunRow.id).desc()).limit(1)

    def _begin(self, who: str | None) -> ReconcileRunRow:
        """Acquire the lease, and begin or resume a run. Wait for the lease: a process that was killed may hold it."""
        waited = 0.0
        while True:
            try:
                return self._begin_or_resume(who)
            except ReconcileLeasedError:
                if waited > self._lease_seconds:
                    raise
            self._list.delay(POLL_SECONDS)
            waited += POLL_SECONDS

    def _begin_or_resume(self, who: str | None) -> ReconcileRunRow:
        with self._database.write() as session:
            self._renew(session)
            run = session.exec(self._unfinished_run()).first()
            if run is None:
                run = ReconcileRunRow(started_at=self._now(session), examples={})
                session.add(run)
                session.flush()
            self._lease.begin_run(session)
            if who is not None:
                audit.append_entry(self._database, session, who=who, act="reconcile.begun", subject=str(run.id))
        return run

    def _renew(self, session: Session) -> None:
        """Acquire or renew the lease."""
        if not self._lease.acquire(session):
            raise ReconcileLeasedError("Another reconcile is running. Wait until it has ended.")

    def _record(self, run: ReconcileRunRow, page: ListPage, began_at: datetime) -> ReconcileRunRow:
        """Import new connections and request reads of changed ones, in one commit with the cursor of the page."""
        # Items move between pages while the list is read: the same one may be on a page twice.
        snapshots = list({snapshot.id: snapshot for snapshot in page.snapshots}.values())
        with self._database.write() as session:
            self._renew(session)
            run = session.merge(run)
            ids = [snapshot.id for snapshot in snapshots]
            # Lock before the mirror is read: otherwise a worker could write a newer state that the page overwrites.
            if snapshots:
                reads.lock_requests(
                    self._database, session, {id_ for snapshot in snapshots for id_ in _get_group_ids(snapshot)}
                )
            stored = {
                row.id: row for row in session.exec(select(ConnectionRow).where(col(ConnectionRow.id).in_(ids))).all()
            }
            drift = find_drift(snapshots, stored, began_at, pending=_find_pending(session, ids))
            imported, to_notify = self._import_connections(session, drift.unseen, began_at, self._clock())
            dead = _find_dead(session, ids)
            requested = reads.request_reads(self._database, session, [*drift.changed, *dead], "reconcile")
            session.exec(update(ConnectionRow).where(col(ConnectionRow.id).in_(ids)).values(reconcile_run_id=run.id))
            run.after, run.pages = page.after or run.after, run.pages + 1
            run.listed, run.unreadable = run.listed + len(ids), run.unreadable + page.unreadable
            add_drift(run, "unseen", [*imported, *(id_ for id_ in dead if id_ not in stored)])
            add_drift(run, "changed", drift.changed)
        if imported:
            self._notify_feed()
        self._notify([*to_notify, *requested])
        return run

    def _finish(self, run: ReconcileRunRow) -> ReconcileReport:
        """Request reads of known connections that the list lacks, and mark the run as finished."""
        after = ""
        while True:
            with self._database.write() as session:
                self._renew(session)
                run = session.merge(run)
                missing = _find_missing(session, run, after)
                requested = reads.request_reads(self._database, session, missing, "reconcile")
                add_drift(run, "missing", missing)
                is_last = len(missing) < BATCH_SIZE
                if is_last:
                    run.finished_at = self._now(session)
                    self._lease.complete_run(session, run.started_at)
            self._notify(requested)
            if is_last:
                return make_report(run)
            after = missing[-1]

    def _notify(self, connection_ids: Collection[str]) -> None:
        # The scheduler notifies the workers if the broker is out of reach.
        with suppress(OutOfReachError):
            self._notify_workers(connection_ids)

    def _now(self, session: Session) -> datetime:
        return session.exec(select(self._database.now())).one()


def _find_pending(session: Session, ids: Collection[str]) -> set[str]:
    """Return the connections whose read is pending and has not failed for good."""
    pending = select(ReadRequestRow.connection_id).where(
        col(ReadRequestRow.connection_id).in_(ids), reads.is_pending(), col(ReadRequestRow.due_at).is_not(None)
    )
    return set(session.exec(pending).all())


def _find_dead(session: Session, ids: Collection[str]) -> list[str]:
    """Return the connections whose read failed for good (dead jobs): Meld lists them, so another read may succeed."""
    dead = select(ReadRequestRow.connection_id).where(
        col(ReadRequestRow.connection_id).in_(ids),
        col(ReadRequestRow.failed_at).is_not(None),
        col(ReadRequestRow.due_at).is_(None),
    )
    return sorted(session.exec(dead).all())


def _find_missing(session: Session, run: ReconcileRunRow, after: str) -> list[str]:
    """Return live connections behind a cursor that were read before the run began, and that the list lacks."""
    missing = (
        select(ConnectionRow.id)
        .join(ReadRequestRow, col(ReadRequestRow.connection_id) == col(ConnectionRow.id))
        .where(
            col(ConnectionRow.id) > after,
            col(ConnectionRow.reconcile_run_id).is_distinct_from(run.id),
            col(ConnectionRow.status).not_in(TERMINAL_STATUSES),
            col(ConnectionRow.checked_at) < run.started_at,
            ~reads.is_pending(),
        )
        .order_by(col(ConnectionRow.id))
    )
    return list(session.exec(missing.limit(BATCH_SIZE)).all())


def _get_group_ids(snapshot: Snapshot) -> set[str]:
    return {snapshot.id, *snapshot.duplicate_ids, snapshot.primary_duplicate_id or snapshot.id}
