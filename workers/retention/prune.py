"""Prune: the conductor of retention. What is no longer owed to anybody and older than its setting is removed.

It goes through the tables in small batches, each a transaction of its own, and rests between them at least as long as
they took: whoever receives and works meanwhile waits for one batch at most. It remembers nothing but when it was last
done, so one that was interrupted is simply done again.
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
from schemas.message_names import PRUNE
from schemas.tables import AuditRow
from workers.retention.cutoffs import Bounds, bounds_of
from workers.retention.rules import KINDS, sieves_of
from workers.retention.scan import ScanResult, ScanWindow, Sieve

LEASE_SECONDS = 60.0
"""Far longer than any batch: a prune that has not been heard of for so long has died."""

MOST = 500
"""Rows that one commit removes, unless that takes long."""

BATCH_SECONDS = 0.1
"""A batch that takes longer is followed by one of half as many rows."""

SHORTEST_REST = 0.02
"""After a commit: who waits for SQLite's lock looks for it now and then, and must find it free."""

LONGEST_REST = 1.0

Progress = Callable[[int], None]
"""Told how many rows were removed so far, or found to be removed."""


class PruneError(MeldwatchError):
    """Another prune is running, or this one was told to end."""


class Prune:
    """Removes what retention may take.

    Args:
        database: The database.
        settings: How long rows are kept.
        holder: Names this process in the lease.
        wait: Waits for so many seconds; returns whether to end.
        metrics: Counts what was removed.
        most: Rows in one batch.
    """

    def __init__(
        self,
        *,
        database: Database,
        settings: Settings,
        holder: str,
        wait: Callable[[float], bool],
        metrics: Metrics,
        most: int = MOST,
    ) -> None:
        self._database = database
        self._settings = settings
        self._turn = TaskLease(
            database=database, name=PRUNE, holder=holder, seconds=LEASE_SECONDS, is_done_at_once=False
        )
        self._wait = wait
        self._metrics = metrics
        self._most = most
        self._size = most
        self._held_at = 0.0

    def is_due(self, every_seconds: float) -> bool:
        """Return whether it is time to prune: the last time was so long ago, or was interrupted.

        A service that has never done it waits as long, from the first time that it is asked.
        """
        with self._database.write() as session:
            return self._turn.is_due(session, every_seconds)

    def preview(self, progress: Progress = lambda _count: None) -> dict[str, int]:
        """Return how many rows ``run`` would remove now, by kind; write nothing."""
        with self._database.read() as session:
            bounds = self._bounds(session)
        counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        for sieve in sieves_of(self._database, bounds):
            for window in self._windows(sieve):
                for found in window.found:
                    counts[found.kind] += sum(found.rows.values())
                progress(counts.total())
        return dict(counts)

    def run(self, progress: Progress = lambda _count: None, *, who: str) -> dict[str, int]:
        """Remove what may go; return how many rows, by kind: of the bodies, how many were emptied.

        Args:
            progress: Told after every batch.
            who: In whose name: an operator's, or the clock's.

        Raises:
            PruneError: Where another one is running, or this one was told to end. What was removed stays so.
            OutOfReachError: Where the database does not answer.
        """
        bounds, act = self._begin(who)
        counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        is_done = False
        try:
            for sieve in sieves_of(self._database, bounds):
                for window in self._windows(sieve):
                    self._stay()
                    for found in window.found:
                        self._sift(sieve, found, act, counts)
                    progress(counts.total())
            is_done = True
        finally:
            with suppress(OutOfReachError), self._database.write() as session:
                self._turn.leave(session, is_done=is_done)
        return dict(counts)

    def _begin(self, who: str) -> tuple[Bounds, int]:
        """Take the lease, and note the act: what it removes is added with each batch."""
        with self._database.write() as session:
            self._hold(session)
            act = audit.note(self._database, session, who=who, act="rows.pruned", details=dict.fromkeys(KINDS, 0))
            session.flush()
            assert act.id is not None
            return self._bounds(session), act.id

    def _bounds(self, session: Session) -> Bounds:
        return bounds_of(self._settings, session.exec(select(self._database.now())).one())

    def _hold(self, session: Session) -> None:
        """Take the lease, or make it last."""
        if not self._turn.take(session):
            raise PruneError("Another prune is running, or was killed less than a minute ago. Wait until it has ended.")
        self._held_at = monotonic()

    def _stay(self) -> None:
        """Make the lease last, also where there is nothing to remove for long."""
        if monotonic() - self._held_at > LEASE_SECONDS / 3:
            with self._database.write() as session:
                self._hold(session)

    def _windows(self, sieve: Sieve) -> Iterator[ScanWindow]:
        """Yield what may go of a table, window by window; in between the caller removes it."""
        after: int | None = 0
        while after is not None:
            began = monotonic()
            with self._database.read() as session:
                window = sieve.look(session, after)
            self._rest(monotonic() - began)
            yield window
            after = window.after

    def _sift(self, sieve: Sieve, found: ScanResult, act: int, counts: Counter[str]) -> None:
        """Remove what was found, batch by batch."""
        keys = list(found.rows)
        while keys:
            batch, keys = keys[: self._size], keys[self._size :]
            left = sum(found.rows[key] for key in batch)
            # At once, but for a long history; somebody else may have been quicker.
            while left > 0 and (removed := self._remove(sieve, found.kind, batch, act, counts)):
                left -= removed

    def _remove(self, sieve: Sieve, kind: str, keys: Sequence[Any], act: int, counts: Counter[str]) -> int:
        """Remove a batch, in one commit with the note of it."""
        began = monotonic()
        with self._database.write() as session:
            self._hold(session)
            removed = sieve.remove(session, kind, keys)
            noted = update(AuditRow).where(col(AuditRow.id) == act)
            session.exec(noted.values(details={**counts, kind: counts[kind] + removed}))
        took = monotonic() - began
        counts[kind] += removed
        self._metrics.pruned.labels(kind).inc(removed)
        self._adapt(took)
        self._rest(max(took, SHORTEST_REST))
        return removed

    def _adapt(self, took: float) -> None:
        """Have batches last no longer than they should, however large the rows are."""
        self._size = max(self._size // 2, 1) if took > BATCH_SECONDS else min(self._size * 2, self._most)

    def _rest(self, took: float) -> None:
        if self._wait(min(took, LONGEST_REST)):
            raise PruneError("Prune was told to end. What was removed stays so; the rest is for the next one.")
