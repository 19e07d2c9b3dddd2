"""Prune: the retention job. Deletes expired rows that no read and no delivery still needs, in small batches.

Each batch is one short transaction, followed by a pause at least as long: meanwhile others work, and wait for one batch
at most. A run keeps no state except the time of the last complete run; an interrupted run simply starts again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from runtime import audit
from runtime.database import Database
from runtime.errors import MeldwatchError, OutOfReachError
from runtime.metrics import Metrics
from runtime.queues.task_lease import TaskLease
from runtime.settings import Settings
from schemas.message_names import PRUNE_LEASE
from schemas.tables import AuditRow
from workers.retention.cutoffs import Cutoffs, compute_cutoffs
from workers.retention.rules import KINDS, table_scans
from workers.retention.scan import RemovableRows, ScanWindow, TableScan

LEASE_SECONDS = 60.0
"""Far longer than any batch: a lease that was not renewed for this long belongs to a process that died."""

MAX_BATCH_ROWS = 500
"""Rows that one commit removes; fewer while commits are slow."""

MAX_BATCH_SECONDS = 0.1
"""After a batch that took longer, the next one has half as many rows."""

MIN_PAUSE_SECONDS = 0.02
"""The shortest pause after a commit: a connection that polls for SQLite's write lock must find it free."""

MAX_PAUSE_SECONDS = 1.0

Progress = Callable[[int], None]
"""Called with the number of rows removed so far, or in a dry run found."""


class PruneError(MeldwatchError):
    """Another prune is running, or this one was stopped."""


class Prune:
    """Removes expired rows.

    Args:
        database: The database.
        settings: How long rows are kept.
        holder: The name of this process in the lease.
        wait: Waits for a number of seconds; returns whether to stop.
        metrics: The counters of this process.
        max_batch_rows: Rows in one batch, at most.
    """

    def __init__(
        self,
        *,
        database: Database,
        settings: Settings,
        holder: str,
        wait: Callable[[float], bool],
        metrics: Metrics,
        max_batch_rows: int = MAX_BATCH_ROWS,
    ) -> None:
        self._database = database
        self._settings = settings
        self._lease = TaskLease(
            database=database, name=PRUNE_LEASE, holder=holder, seconds=LEASE_SECONDS, is_run_on_acquire=False
        )
        self._wait = wait
        self._metrics = metrics
        self._max_batch_rows = max_batch_rows
        self._batch_rows = max_batch_rows
        self._renewed_at = 0.0

    def is_due(self, every_seconds: float) -> bool:
        """Return whether the last complete run was this long ago, or the last run was interrupted.

        In a new service the first run is due this long after the first call.
        """
        with self._database.write() as session:
            return self._lease.is_due(session, every_seconds)

    def preview(self, progress: Progress = lambda _count: None) -> dict[str, int]:
        """Return how many rows ``run`` would remove now, by kind (dry run); write nothing."""
        with self._database.read() as session:
            cutoffs = self._cutoffs(session)
        counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        for scan in table_scans(self._database, cutoffs):
            for window in self._windows(scan):
                for found in window.found:
                    counts[found.kind] += sum(found.rows.values())
                progress(counts.total())
        return dict(counts)

    def run(self, progress: Progress = lambda _count: None, *, who: str) -> dict[str, int]:
        """Remove expired rows; return how many, by kind. ``bodies`` counts webhooks whose body was emptied.

        Args:
            progress: Called after every window.
            who: The operator, or the scheduler, for the audit log.

        Raises:
            PruneError: If another run has the lease, or this one was stopped. Removed rows stay removed.
            OutOfReachError: If the database does not answer.
        """
        cutoffs, audit_id = self._begin(who)
        counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        is_run_complete = False
        try:
            for scan in table_scans(self._database, cutoffs):
                for window in self._windows(scan):
                    self._renew_old_lease()
                    for found in window.found:
                        self._remove_found(scan, found, audit_id, counts)
                    progress(counts.total())
            is_run_complete = True
        finally:
            with suppress(OutOfReachError), self._database.write() as session:
                self._lease.release(session, is_run_complete=is_run_complete)
        return dict(counts)

    def _begin(self, who: str) -> tuple[Cutoffs, int]:
        """Take the lease and append the audit entry, which each batch updates with the numbers of removed rows."""
        with self._database.write() as session:
            self._renew_lease(session)
            details = dict.fromkeys(KINDS, 0)
            entry = audit.append_entry(self._database, session, who=who, act="rows.pruned", details=details)
            session.flush()
            assert entry.id is not None
            return self._cutoffs(session), entry.id

    def _cutoffs(self, session: Session) -> Cutoffs:
        return compute_cutoffs(self._settings, session.exec(select(self._database.now())).one())

    def _renew_lease(self, session: Session) -> None:
        """Take the lease, or renew it."""
        if not self._lease.acquire(session):
            raise PruneError("Another prune is running, or was killed less than a minute ago. Wait until it has ended.")
        self._renewed_at = monotonic()

    def _renew_old_lease(self) -> None:
        """Renew the lease during a long scan that removes nothing (heartbeat)."""
        if monotonic() - self._renewed_at > LEASE_SECONDS / 3:
            with self._database.write() as session:
                self._renew_lease(session)

    def _windows(self, scan: TableScan) -> Iterator[ScanWindow]:
        """Yield the windows of a table; the caller removes the rows of each before the next one is read."""
        after: int | None = 0
        while after is not None:
            began = monotonic()
            with self._database.read() as session:
                window = scan.find_removable(session, after)
            self._pause(monotonic() - began)
            yield window
            after = window.after

    def _remove_found(self, scan: TableScan, found: RemovableRows, audit_id: int, counts: Counter[str]) -> None:
        """Remove the found rows in batches."""
        keys = list(found.rows)
        while keys:
            batch, keys = keys[: self._batch_rows], keys[self._batch_rows :]
            remaining = sum(found.rows[key] for key in batch)
            # A long history needs several commits. 0 means that the other rows are locked, or no longer removable.
            while remaining > 0 and (removed := self._remove(scan, found.kind, batch, audit_id, counts)):
                remaining -= removed

    def _remove(self, scan: TableScan, kind: str, keys: Sequence[Any], audit_id: int, counts: Counter[str]) -> int:
        """Remove a batch and update the audit entry, in one commit."""
        began = monotonic()
        with self._database.write() as session:
            self._renew_lease(session)
            removed = scan.remove(session, kind, keys)
            entry = update(AuditRow).where(col(AuditRow.id) == audit_id)
            session.exec(entry.values(details={**counts, kind: counts[kind] + removed}))
        seconds = monotonic() - began
        counts[kind] += removed
        self._metrics.pruned.labels(kind).inc(removed)
        self._adapt_batch_size(seconds)
        self._pause(max(seconds, MIN_PAUSE_SECONDS))
        return removed

    def _adapt_batch_size(self, seconds: float) -> None:
        """Halve the batch size after a slow batch, double it after a quick one: rows differ in size."""
        is_slow = seconds > MAX_BATCH_SECONDS
        self._batch_rows = max(self._batch_rows // 2, 1) if is_slow else min(self._batch_rows * 2, self._max_batch_rows)

    def _pause(self, seconds: float) -> None:
        if self._wait(min(seconds, MAX_PAUSE_SECONDS)):
            raise PruneError("Prune was stopped. Removed rows stay removed; the next run removes the others.")
