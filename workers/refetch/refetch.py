"""Refetch of one connection: acquire the lease, read Meld, commit the result, notify workers.

This module alone opens transactions and knows the order. If the process dies at any point, the lease ends and the
scheduler notifies another worker; nothing is half written.
"""

import threading
from collections.abc import Callable, Collection
from datetime import datetime
from time import monotonic
from typing import Protocol

from sqlmodel import Session

from runtime import logs
from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.meld.read_outcome import Absent, Found, ReadOutcome, Unavailable, Unreadable
from workers.refetch.commit import (
    CommitResult,
    LeaseLostError,
    commit_read,
    complete_without_result,
    is_known_deleted,
    is_only_listed,
)
from workers.refetch.lease import ReadLease, acquire_lease, release_leases
from workers.refetch.mirror_row import Reading
from workers.refetch.reschedule import reschedule
from workers.refetch.retry_policy import MAX_ATTEMPTS, Failure

log = logs.get_logger(__name__)


class MeldReader(Protocol):
    """The client of Meld that a refetch needs."""

    def read(self, connection_id: str) -> ReadOutcome:
        """Read one connection; the deadline is shorter than the lease."""


class Refetcher:
    """Refetches connections, each in one worker at a time. Threads share one object.

    Args:
        database: The read requests and the mirror.
        reader: The client of Meld.
        notify_workers: Enqueues a message for each connection that has a read request. It may raise
            ``OutOfReachError``; then the scheduler notifies the workers.
        notify_dispatchers: The same for subscriptions that have new deliveries.
        clock: Returns the present, for the begin and the end of a read.
        lease_seconds: The duration of a lease; longer than any read.
        new_token: Returns a new fencing token, never the same one twice.
        jitter: Returns a random number from 0 to 1.
        metrics: The metrics to count in.
        notify_feed: Called after a commit that appended events to the feed.
    """

    def __init__(
        self,
        *,
        database: Database,
        reader: MeldReader,
        notify_workers: Callable[[Collection[str]], None],
        notify_dispatchers: Callable[[Collection[str]], None],
        clock: Clock,
        lease_seconds: float,
        new_token: Callable[[], str],
        jitter: Callable[[], float],
        metrics: Metrics,
        notify_feed: Callable[[], None],
    ) -> None:
        self._database = database
        self._reader = reader
        self._notify_workers = notify_workers
        self._notify_dispatchers = notify_dispatchers
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._new_token = new_token
        self._jitter = jitter
        self._metrics = metrics
        self._notify_feed = notify_feed
        self._held_tokens: set[str] = set()
        self._lock = threading.Lock()

    def refetch(self, connection_id: str) -> None:
        """Read a connection if a read of it is due, and commit the result or schedule a retry.

        Raises:
            OutOfReachError: If the database does not answer.
        """
        token = self._new_token()
        with self._database.write() as session:
            lease = acquire_lease(
                self._database, session, connection_id, token=token, lease_seconds=self._lease_seconds
            )
        if lease is None:
            return
        with self._lock:
            self._held_tokens.add(token)
        try:
            self._read_and_commit(lease)
        except LeaseLostError:
            self._metrics.discarded_reads.inc()
            log.info("read discarded", connection_id=connection_id)
        finally:
            with self._lock:
                self._held_tokens.discard(token)

    def release_leases(self) -> None:
        """Release the leases of all reads in progress, because the process is about to end (graceful shutdown)."""
        with self._lock:
            tokens = sorted(self._held_tokens)
        if tokens:
            with self._database.write() as session:
                release_leases(session, tokens)

    def _read_and_commit(self, lease: ReadLease) -> None:
        began_at, began = self._clock(), monotonic()
        outcome = self._read(lease)
        self._metrics.reads.labels(type(outcome).__name__.lower()).inc()
        self._metrics.read_seconds.observe(monotonic() - began)
        result = self._commit_or_fail(lease, outcome, began_at)
        for type_ in result.event_types:
            self._metrics.events.labels(type_).inc()
        if result.event_types:
            self._notify_feed()
        self._notify(self._notify_dispatchers, result.subscription_ids)
        self._notify(self._notify_workers, result.connection_ids)

    def _read(self, lease: ReadLease) -> ReadOutcome:
        if lease.attempts > MAX_ATTEMPTS and not lease.is_dead:
            # No attempt has recorded an outcome, so this connection probably crashes the process that reads it.
            return Unavailable("every attempt ended without an outcome: the worker's process died")
        return self._reader.read(lease.connection_id)

    def _commit_or_fail(self, lease: ReadLease, outcome: ReadOutcome, began_at: datetime) -> CommitResult:
        try:
            return self._commit(lease, outcome, began_at)
        except (LeaseLostError, OutOfReachError):
            raise
        except Exception as error:
            # An answer that cannot be stored counts as a failure of this connection, with attempts and an end. As an
            # error of the process it would repeat with every lease.
            log.exception("answer not stored", connection_id=lease.connection_id)
            failure = Unreadable(f"the answer cannot be stored ({type(error).__name__})")
            return self._commit(lease, failure, began_at)

    def _commit(self, lease: ReadLease, outcome: ReadOutcome, began_at: datetime) -> CommitResult:
        ended_at = self._clock()
        with self._database.write() as session:
            if isinstance(outcome, Found):
                return commit_read(self._database, session, lease, Reading(outcome.snapshot, began_at, ended_at))
            if isinstance(outcome, Absent) and is_known_deleted(session, lease.connection_id):
                return commit_read(self._database, session, lease, Reading(None, began_at, ended_at))
            if isinstance(outcome, Absent) and is_only_listed(session, lease):
                complete_without_result(self._database, session, lease)
            else:
                self._reschedule(session, lease, outcome)
        return CommitResult()

    def _reschedule(self, session: Session, lease: ReadLease, failure: Failure) -> None:
        retry = reschedule(self._database, session, lease, failure, jitter=self._jitter())
        log.warning(
            "read given up" if retry.is_dead else "read rescheduled",
            connection_id=lease.connection_id,
            attempt=lease.attempts,
            outcome=type(failure).__name__.lower(),
            detail=retry.detail,
            pause=retry.pause,
        )

    def _notify(self, notify: Callable[[Collection[str]], None], ids: Collection[str]) -> None:
        if not ids:
            return
        try:
            notify(ids)
        except OutOfReachError:
            self._metrics.failed_notifications.inc(len(ids))
