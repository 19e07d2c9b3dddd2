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

from runtime import audit, gate, jobs, logs
from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import MeldwatchError, OutOfReachError
from runtime.turn import Turn
from schemas.meld import TERMINAL, Page, PageOutcome, Refused, Snapshot, Throttled, Unavailable, Unreadable
from schemas.tables import Connection, Job, Lease, Sweep
from service.drift import compare
from service.report import Report, count, report_of

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


Adopt = Callable[[Session, Sequence[Snapshot], datetime, datetime], tuple[list[str], list[str]]]
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
        adopt: Adopt,
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
        self._turn = Turn(database=database, name=NAME, holder=holder, seconds=lease_seconds)
        self._wait = wait
        self._notify = notify

    def run(self, progress: Callable[[Sweep], None] = lambda _sweep: None, *, who: str | None = None) -> Report:
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
            lease = session.get(Lease, NAME)
            if lease is None:
                session.add(Lease(name=NAME, holder=self._holder, until=now, ran_at=now))
                return False
            newest = session.exec(select(Sweep).order_by(col(Sweep.id).desc()).limit(1)).first()
            if lease.until > now:
                return False
            if newest is not None and newest.finished_at is None:
                return True  # interrupted
            last = newest.started_at if newest is not None else lease.ran_at
            return last is None or (now - last).total_seconds() >= every_seconds

    def _begin(self, who: str | None) -> Sweep:
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

    def _take_up(self, who: str | None) -> Sweep:
        with self._database.write() as session:
            self._hold(session)
            unfinished = select(Sweep).where(
                col(Sweep.finished_at).is_(None), col(Sweep.started_at) > self._database.now(-OLDEST_SECONDS)
            )
            sweep = session.exec(unfinished.order_by(col(Sweep.id).desc()).limit(1)).first()
            if sweep is None:
                sweep = Sweep(started_at=session.exec(select(self._database.now())).one(), examples={})
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

    def _page(self, after: str | None) -> Page:
        """Read a page, whatever it takes within bounds: pauses are waited for, failures tried again."""
        for failures in range(MOST_FAILURES):
            self._wait_for_gate()
            outcome = self._lister.page(after=after)
            with self._database.write() as session:
                self._hold(session)
                if isinstance(outcome, Page):
                    gate.open_(session)
                    return outcome
                self._pause(session, outcome)
            log.warning("page not read", outcome=type(outcome).__name__.lower(), failures=failures + 1)
            self._rest(FAILED_SECONDS)
        raise OutOfReachError("Meld's list cannot be read. What was done stays done; run it again to go on.")

    def _pause(self, session: Session, outcome: Throttled | Refused | Unavailable | Unreadable) -> None:
        """Pause everybody for what speaks of Meld or of our credentials."""
        match outcome:
            case Throttled(retry_after):
                seconds = FAILED_SECONDS if retry_after is None else max(retry_after, 1.0)
                gate.close(self._database, session, reason="throttled", detail="Meld answered 429", seconds=seconds)
            case Refused(detail):
                gate.close(self._database, session, reason="refused", detail=detail, seconds=REFUSED_SECONDS)
            case Unavailable(detail, retry_after) if retry_after:
                gate.close(self._database, session, reason="unavailable", detail=detail, seconds=retry_after)
            case Unavailable() | Unreadable():
                log.warning("Meld's list", detail=outcome.detail)

    def _wait_for_gate(self) -> None:
        while True:
            with self._database.write() as session:
                self._hold(session)
                if gate.enter(self._database, session, probe_seconds=LOOK_SECONDS * 30) != "closed":
                    return
            self._rest(LOOK_SECONDS)

    def _rest(self, seconds: float) -> None:
        if self._wait(seconds):
            raise OutOfReachError("Reconcile was told to end. Run it again to go on.")

    def _take(self, sweep: Sweep, page: Page, began_at: datetime) -> Sweep:
        """Write down what a page says, in one commit with the place where it ends."""
        # An item that has shifted may stand on a page twice.
        snapshots = list({snapshot.id: snapshot for snapshot in page.snapshots}.values())
        with self._database.write() as session:
            self._hold(session)
            sweep = session.merge(sweep)
            ids = [snapshot.id for snapshot in snapshots]
            # Before the mirror is looked at: behind these locks no worker can write what the page would overwrite.
            if snapshots:
                jobs.lock(self._database, session, {id_ for snapshot in snapshots for id_ in _names(snapshot)})
            stored = {row.id: row for row in session.exec(select(Connection).where(col(Connection.id).in_(ids))).all()}
            drift = compare(snapshots, stored, began_at, owed=self._owed(session, ids))
            adopted, calls = self._adopt(session, drift.unseen, began_at, self._clock())
            dead = self._dead(session, ids)
            calls = [*calls, *jobs.raise_jobs(self._database, session, [*drift.changed, *dead], "reconcile")]
            session.exec(update(Connection).where(col(Connection.id).in_(ids)).values(sweep_id=sweep.id))
            sweep.after, sweep.pages = page.after or sweep.after, sweep.pages + 1
            sweep.listed, sweep.unreadable = sweep.listed + len(ids), sweep.unreadable + page.unreadable
            count(sweep, "unseen", [*adopted, *(id_ for id_ in dead if id_ not in stored)])
            count(sweep, "changed", drift.changed)
        if adopted:
            self._notify()
        self._call_workers(calls)
        return sweep

    def _owed(self, session: Session, ids: Collection[str]) -> set[str]:
        owed = select(Job.connection_id).where(
            col(Job.connection_id).in_(ids), Job.requested > Job.completed, col(Job.due_at).is_not(None)
        )
        return set(session.exec(owed).all())

    def _dead(self, session: Session, ids: Collection[str]) -> list[str]:
        """Return whose reads were given up for good: that Meld lists them says that it is worth while again."""
        dead = select(Job.connection_id).where(
            col(Job.connection_id).in_(ids), col(Job.failed_at).is_not(None), col(Job.due_at).is_(None)
        )
        return sorted(session.exec(dead).all())

    def _finish(self, sweep: Sweep) -> Report:
        """Ask for what the list lacks although it was there before, and close the book."""
        after = ""
        while True:
            with self._database.write() as session:
                self._hold(session)
                sweep = session.merge(sweep)
                missing = self._missing(session, sweep, after)
                calls = jobs.raise_jobs(self._database, session, missing, "reconcile")
                count(sweep, "missing", missing)
                if len(missing) < CHUNK:
                    sweep.finished_at = session.exec(select(self._database.now())).one()
            self._call_workers(calls)
            if len(missing) < CHUNK:
                return report_of(sweep)
            after = missing[-1]

    def _missing(self, session: Session, sweep: Sweep, after: str) -> list[str]:
        statement = (
            select(Connection.id)
            .join(Job, col(Job.connection_id) == col(Connection.id))
            .where(
                col(Connection.id) > after,
                col(Connection.sweep_id).is_distinct_from(sweep.id),
                col(Connection.status).not_in(TERMINAL),
                col(Connection.checked_at) < sweep.started_at,
                col(Job.requested) == col(Job.completed),
            )
            .order_by(col(Connection.id))
        )
        return list(session.exec(statement.limit(CHUNK)).all())

    def _call_workers(self, connection_ids: Collection[str]) -> None:
        # The clock calls for those that the broker does not take.
        with suppress(OutOfReachError):
            self._call(connection_ids)


def _names(snapshot: Snapshot) -> set[str]:
    return {snapshot.id, *snapshot.duplicate_ids, snapshot.primary_duplicate_id or snapshot.id}
