"""Refresh: the conductor. Claim, read, settle, call; it alone opens transactions and knows the order.

Whatever is killed in between, the lease ends and the clock calls again; nothing is ever half written.
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
from workers.refetch.commit import Applied, LeaseLostError, apply, believes_absence, dismiss, is_only_listed
from workers.refetch.lease import ReadLease, release, take
from workers.refetch.mirror_row import Reading
from workers.refetch.reschedule import postpone
from workers.refetch.retry_policy import MAX_ATTEMPTS, Failure

log = logs.get_logger(__name__)


class MeldReader(Protocol):
    """What a refresh needs of Meld."""

    def read(self, connection_id: str) -> ReadOutcome:
        """Read one connection, within the time that a lease leaves."""


class Refetch:
    """Reads connections of Meld again, one at a time each. Threads share one.

    Args:
        database: Where the work and the mirror are.
        reader: Meld.
        call: Calls workers for connections; may raise ``OutOfReachError``, then the clock does.
        push: Calls workers for subscriptions, likewise.
        clock: The present, for when a read began and ended.
        lease_seconds: How long a claim lasts; longer than any read.
        token: Makes the fence's token, never the same twice.
        jitter: Makes a random number from 0 to 1.
        metrics: Counts.
        notify: Told after a commit that put events into the feed.
    """

    def __init__(
        self,
        *,
        database: Database,
        reader: MeldReader,
        call: Callable[[Collection[str]], None],
        push: Callable[[Collection[str]], None],
        clock: Clock,
        lease_seconds: float,
        token: Callable[[], str],
        jitter: Callable[[], float],
        metrics: Metrics,
        notify: Callable[[], None],
    ) -> None:
        self._database = database
        self._reader = reader
        self._call = call
        self._push = push
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._token = token
        self._jitter = jitter
        self._metrics = metrics
        self._notify = notify
        self._under_way: set[str] = set()
        self._lock = threading.Lock()

    def refresh(self, connection_id: str) -> None:
        """Read a connection again if that is owed, and write down what was seen or why nothing was.

        Raises:
            OutOfReachError: Where the database does not answer.
        """
        token = self._token()
        with self._database.write() as session:
            claim = take(self._database, session, connection_id, token=token, lease_seconds=self._lease_seconds)
        if claim is None:
            return
        with self._lock:
            self._under_way.add(token)
        try:
            self._work(claim)
        except LeaseLostError:
            self._metrics.discarded_reads.inc()
            log.info("outrun", connection_id=connection_id)
        finally:
            with self._lock:
                self._under_way.discard(token)

    def release_leases(self) -> None:
        """Give back the claims whose reads are under way: the process ends and will not wait for them."""
        with self._lock:
            tokens = sorted(self._under_way)
        if tokens:
            with self._database.write() as session:
                release(session, tokens)

    def _work(self, claim: ReadLease) -> None:
        began_at, began = self._clock(), monotonic()
        outcome = self._read(claim)
        self._metrics.reads.labels(type(outcome).__name__.lower()).inc()
        self._metrics.read_seconds.observe(monotonic() - began)
        applied = self._settle_somehow(claim, outcome, began_at)
        for type_ in applied.types:
            self._metrics.events.labels(type_).inc()
        if applied.types:
            self._notify()
        self._call_workers(self._push, applied.subscriptions)
        self._call_workers(self._call, applied.calls)

    def _read(self, claim: ReadLease) -> ReadOutcome:
        if claim.attempts > MAX_ATTEMPTS and not claim.is_dead:
            # Every attempt ended without a word, so something about it kills the process that reads it.
            return Unavailable("every attempt ended without an outcome: the worker's process died")
        return self._reader.read(claim.connection_id)

    def _settle_somehow(self, claim: ReadLease, outcome: ReadOutcome, began_at: datetime) -> Applied:
        try:
            return self._settle(claim, outcome, began_at)
        except (LeaseLostError, OutOfReachError):
            raise
        except Exception as error:
            # Whatever Meld's answer is made of: it is this connection's failure, with attempts and an end, and not
            # one of the process that would repeat itself with every lease.
            log.exception("answer not stored", connection_id=claim.connection_id)
            failure = Unreadable(f"the answer cannot be stored ({type(error).__name__})")
            return self._settle(claim, failure, began_at)

    def _settle(self, claim: ReadLease, outcome: ReadOutcome, began_at: datetime) -> Applied:
        ended_at = self._clock()
        with self._database.write() as session:
            if isinstance(outcome, Found):
                return apply(self._database, session, claim, Reading(outcome.snapshot, began_at, ended_at))
            if isinstance(outcome, Absent) and believes_absence(session, claim.connection_id):
                return apply(self._database, session, claim, Reading(None, began_at, ended_at))
            if isinstance(outcome, Absent) and is_only_listed(session, claim):
                dismiss(self._database, session, claim)
                return Applied()
            self._postpone(session, claim, outcome)
        return Applied()

    def _postpone(self, session: Session, claim: ReadLease, failure: Failure) -> None:
        verdict = postpone(self._database, session, claim, failure, jitter=self._jitter())
        log.warning(
            "gave up" if verdict.is_dead else "put off",
            connection_id=claim.connection_id,
            attempt=claim.attempts,
            outcome=type(failure).__name__.lower(),
            detail=verdict.detail,
            pause=verdict.pause,
        )

    def _call_workers(self, call: Callable[[Collection[str]], None], ids: Collection[str]) -> None:
        if not ids:
            return
        try:
            call(ids)
        except OutOfReachError:
            self._metrics.failed_notifications.inc(len(ids))
