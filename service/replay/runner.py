"""Replay runner: runs stored replays step by step, each under a task lease; a killed one resumes where it was.

Each step is one commit, together with the cursor at which it ends. Any process with a ``ReplayRunner`` may run any
replay: ``clock`` and ``up`` run those that wait, the command ``meldwatch replay`` runs the one that it created. The
lease lets one process at a time run a replay; when that process ends or dies, another process acquires the lease.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime

from sqlmodel import Session, col, select

from runtime import logs
from runtime.database import Database
from runtime.errors import MeldwatchError, OutOfReachError
from runtime.queues.task_lease import TaskLease
from schemas.replays import ReplayKind
from schemas.tables import ReplayRow, TaskLeaseRow
from service.replay.event_replay import append_next_deliveries
from service.replay.selection import SCAN_SIZE, make_selection
from service.replay.step import ReplayStep
from service.replay.webhook_replay import request_next_reads

log = logs.get_logger(__name__)

LEASE_SECONDS = 15.0
"""How long a process keeps the lease of a replay without renewing it."""

RENEW_SECONDS = 5.0
"""How often a process renews the lease during a long delay, and checks whether the replay was stopped."""

WATCH_SECONDS = 1.0
"""How often ``run_or_watch`` checks a replay that another process runs."""

LEASE_PREFIX = "replay "
"""The name of a replay's lease is this prefix and the replay's id."""

Steps = Mapping[str, Callable[[Database, Session, ReplayRow], ReplayStep]]
"""Does the next step of a replay, by the replay's kind."""

STEPS: Steps = {"webhooks": request_next_reads, "events": append_next_deliveries}

Progress = Callable[[ReplayRow, str | None], None]
"""Called after each step with the replay, and with what it waits for."""


class ReplayLeasedError(MeldwatchError):
    """Another process holds the lease of this replay."""

    def __init__(self) -> None:
        super().__init__("Another process runs this replay.")


class ReplayRunner:
    """Runs replays, one at a time.

    Args:
        database: The database.
        notify_workers: Notifies the workers of connections. If it raises ``OutOfReachError``, the scheduler does it.
        holder: Names this process in the leases.
        wait: Waits for so many seconds; returns whether this process is stopping.
        steps: Does the steps.
    """

    def __init__(
        self,
        *,
        database: Database,
        notify_workers: Callable[[Collection[str]], None],
        holder: str,
        wait: Callable[[float], bool],
        steps: Steps = STEPS,
    ) -> None:
        self._database = database
        self._notify_workers = notify_workers
        self._holder = holder
        self._wait = wait
        self._steps = steps

    def find_due(self, kind: ReplayKind) -> str | None:
        """Return the id of the oldest replay that has to be run and that no process runs."""
        unfinished = select(ReplayRow.id).where(
            ReplayRow.kind == kind, col(ReplayRow.stopped_at).is_(None), col(ReplayRow.finished_at).is_(None)
        )
        with self._database.read() as session:
            ids = session.exec(unfinished.order_by(col(ReplayRow.created_at), col(ReplayRow.id))).all()
            leased = find_leased(self._database, session, ids)
        return next((id_ for id_ in ids if id_ not in leased), None)

    def run(self, replay_id: str, progress: Progress = lambda _row, _waiting_for: None) -> ReplayRow:
        """Run a replay until it is over, is stopped, or this process is stopping; return its row.

        Raises:
            ReplayLeasedError: If another process runs it.
            OutOfReachError: If the database does not answer. The replay resumes from its last step.
        """
        lease = TaskLease(
            database=self._database, name=LEASE_PREFIX + replay_id, holder=self._holder, seconds=LEASE_SECONDS
        )
        try:
            with self._database.write() as session:
                row = self._renew(session, lease, replay_id)
            if row.total is None:
                row = self._count(lease, row)
            logged: str | None = None
            while _is_unfinished(row):
                row, step = self._step(lease, replay_id)
                progress(row, step.waiting_for)
                if step.waiting_for is not None and step.waiting_for != logged:
                    log.info("replay waits", replay_id=replay_id, detail=step.waiting_for)
                logged = step.waiting_for
                if _is_unfinished(row) and self._delay(lease, replay_id, step.delay_seconds):
                    break
            return row
        finally:
            with suppress(OutOfReachError), self._database.write() as session:
                lease.release(session)

    def run_or_watch(self, replay_id: str, progress: Progress = lambda _row, _waiting_for: None) -> ReplayRow:
        """Run a replay; while another process holds its lease, watch it. Return its row as ``run`` does.

        Raises:
            OutOfReachError: If the database does not answer.
        """
        while True:
            try:
                return self.run(replay_id, progress)
            except ReplayLeasedError:
                with self._database.read() as session:
                    row = session.get_one(ReplayRow, replay_id)
            progress(row, None)
            if not _is_unfinished(row) or self._wait(WATCH_SECONDS):
                return row

    def _renew(self, session: Session, lease: TaskLease, replay_id: str) -> ReplayRow:
        """Lock a replay, and acquire or renew its lease."""
        row = session.get_one(ReplayRow, replay_id, with_for_update=True)
        if _is_unfinished(row) and not lease.acquire(session):
            raise ReplayLeasedError
        return row

    def _count(self, lease: TaskLease, row: ReplayRow) -> ReplayRow:
        """Count what the replay covers. An interrupted count is not kept: the next process begins it again."""
        after, total, is_complete = "", 0, False
        while _is_unfinished(row) and not is_complete:
            with self._database.read() as session:
                scanned = make_selection(session, row).scan(session, after)
            total += sum(each.matches for each in scanned)
            after, is_complete = scanned[-1].connection_id if scanned else after, len(scanned) < SCAN_SIZE
            with self._database.write() as session:
                row = self._renew(session, lease, row.id)
                row.total = total if is_complete else None
            if self._wait(0):
                break
        return row

    def _step(self, lease: TaskLease, replay_id: str) -> tuple[ReplayRow, ReplayStep]:
        with self._database.write() as session:
            row = self._renew(session, lease, replay_id)
            if not _is_unfinished(row):
                return row, ReplayStep(after=row.after)
            step = self._steps[row.kind](self._database, session, row)
            row.after, row.done, row.error = step.after, row.done + step.count, step.error
            if step.is_last or step.error is not None:
                row.finished_at = self._now(session)
                lease.delete(session)
        if step.connections_to_notify:
            # The scheduler notifies the workers if the broker is out of reach.
            with suppress(OutOfReachError):
                self._notify_workers(step.connections_to_notify)
        return row, step

    def _delay(self, lease: TaskLease, replay_id: str, seconds: float) -> bool:
        """Wait until the next step, renewing the lease; return whether this process is stopping."""
        while seconds > RENEW_SECONDS:
            if self._wait(RENEW_SECONDS):
                return True
            seconds -= RENEW_SECONDS
            with self._database.write() as session:
                if not _is_unfinished(self._renew(session, lease, replay_id)):
                    return False
        return self._wait(seconds)

    def _now(self, session: Session) -> datetime:
        return session.exec(select(self._database.now())).one()


def find_leased(database: Database, session: Session, ids: Collection[str]) -> set[str]:
    """Return those of the replays that a process runs."""
    names = [LEASE_PREFIX + id_ for id_ in ids]
    leased = select(TaskLeaseRow.name).where(
        col(TaskLeaseRow.name).in_(names), col(TaskLeaseRow.until) > database.now()
    )
    return {name.removeprefix(LEASE_PREFIX) for name in session.exec(leased).all()}


def _is_unfinished(row: ReplayRow) -> bool:
    """Return whether a replay has to be run: it is neither finished nor stopped."""
    return row.finished_at is None and row.stopped_at is None
