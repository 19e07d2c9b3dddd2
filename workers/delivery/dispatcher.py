"""Delivery dispatcher: at-least-once pushes from the outbox, in order within each delivery queue, until none is due.

For each delivery it leases a queue, signs the event, pushes it and records the result. A message names a subscription,
not a delivery: the worker that receives it takes the queue that has been due longest. If a process dies, its lease
ends, and the scheduler notifies a worker again. A push whose result was not recorded is sent once more, with the same
id.
"""

import threading
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any

from sqlmodel import Session

from runtime import logs
from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import EncryptionError, OutOfReachError
from runtime.metrics import Metrics
from runtime.queues import deliveries
from runtime.security.encryption import Encryption
from schemas.events import Event
from schemas.push import PushResult
from workers.delivery.concurrency import ConcurrencyLimits
from workers.delivery.lease import DeliveryLease, DeliveryTarget, get_target, lease_next
from workers.delivery.result import DeliveryLeaseLostError, record_result
from workers.delivery.signing import signed_headers
from workers.delivery.transport import PushSender

log = logs.get_logger(__name__)

TIME_SLICE_SECONDS = 5.0
"""After this time a thread stops and enqueues its subscription again, so that other subscriptions get their turn."""


class DeliveryDispatcher:
    """Pushes events to subscriptions. All threads of a process share one instance.

    Args:
        database: The database.
        sender: Sends events to subscribers.
        encryption: Decrypts the secrets that sign the pushes.
        notify: Enqueues a message for the workers of subscriptions. It may raise ``OutOfReachError``: then the
            scheduler notifies them later.
        clock: Returns the present, which is part of the signature.
        lease_seconds: How long a lease lasts: longer than any push.
        new_token: Returns a unique fencing token.
        jitter: Returns a random number from 0 to 1.
        metrics: The counters of this process.
        threads: How many threads of this process push.
        time_slice_seconds: After this time a thread enqueues its subscription again and ends.
    """

    def __init__(
        self,
        *,
        database: Database,
        sender: PushSender,
        encryption: Encryption,
        notify: Callable[[Collection[str]], None],
        clock: Clock,
        lease_seconds: float,
        new_token: Callable[[], str],
        jitter: Callable[[], float],
        metrics: Metrics,
        threads: int,
        time_slice_seconds: float = TIME_SLICE_SECONDS,
    ) -> None:
        self._database = database
        self._sender = sender
        self._encryption = encryption
        self._notify = notify
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._new_token = new_token
        self._jitter = jitter
        self._metrics = metrics
        self._limits = ConcurrencyLimits(threads)
        self._time_slice_seconds = time_slice_seconds
        self._active_tokens: set[str] = set()
        self._lock = threading.Lock()
        self._is_stopping = False

    def deliver(self, subscription_id: str) -> None:
        """Push a subscription's due deliveries, until none is due or the time slice is over.

        Raises:
            OutOfReachError: If the database does not answer.
        """
        if not self._limits.acquire(subscription_id):
            return
        try:
            is_slice_over = self._push_due(subscription_id)
        except BaseException:
            self._limits.release(subscription_id)
            raise
        if self._is_stopping:
            return
        if (waiting := self._limits.reserve_next_waiting()) is not None:
            self._notify_worker(waiting)
        if is_slice_over:
            self._notify_worker(subscription_id)

    def stop(self) -> None:
        """Begin no more pushes: the process ends (graceful shutdown)."""
        self._is_stopping = True

    def release_leases(self) -> None:
        """Release the leases of unfinished pushes: the process ends and does not wait for them."""
        with self._lock:
            tokens = sorted(self._active_tokens)
        for token in tokens:
            # One queue in each transaction: a transaction that locks several queues must hold the feed's lock.
            self._release_lease(token)

    def _push_due(self, subscription_id: str) -> bool:
        """Push one delivery after the other, then release the thread; return whether the time slice is over."""
        deadline = monotonic() + self._time_slice_seconds
        lease: DeliveryLease | None = None
        while lease is not None or self._has_time(deadline):
            lease = lease or self._lease_next(subscription_id)
            if lease is None:
                if self._limits.release_if_idle(subscription_id):
                    return False
                continue
            may_continue, lease = self._push(lease, deadline)
            if not may_continue:
                # The consumer fails: one thread at a time is enough to detect its recovery.
                break
        self._limits.release(subscription_id)
        return monotonic() >= deadline

    def _has_time(self, deadline: float) -> bool:
        return not self._is_stopping and monotonic() < deadline

    def _lease_next(self, subscription_id: str) -> DeliveryLease | None:
        with self._database.write() as session:
            return self._lease_within(session, get_target(self._database, session, subscription_id))

    def _lease_within(self, session: Session, target: DeliveryTarget | None) -> DeliveryLease | None:
        if target is None:
            return None
        return lease_next(self._database, session, target, token=self._new_token(), lease_seconds=self._lease_seconds)

    def _push(self, lease: DeliveryLease, deadline: float) -> tuple[bool, DeliveryLease | None]:
        """Push an event and record the result.

        Return whether this thread may continue with the subscription, and its next lease if it already has one.
        """
        with self._lock:
            self._active_tokens.add(lease.token)
        try:
            began_at, began = self._clock(), monotonic()
            with self._limits.track_push(lease.subscription_id):
                result = self._send(lease)
            if result.is_cancelled:
                self._release_lease(lease.token)
                return False, None
            seconds = monotonic() - began
            self._metrics.pushes.labels(_result_label(result)).inc()
            self._metrics.push_seconds.observe(seconds)
            outcome = {
                "at": began_at.isoformat(),
                "seconds": round(seconds, 3),
                "status": result.status,
                "error": result.detail,
                "response": result.response,
            }
            continues = result.is_acknowledged and self._has_time(deadline)
            next_lease = self._record(lease, result, outcome, continues=continues)
        finally:
            with self._lock:
                self._active_tokens.discard(lease.token)
        exceeds_limit = self._limits.record_result(lease.subscription_id, is_acknowledged=result.is_acknowledged)
        return not exceeds_limit, next_lease

    def _send(self, lease: DeliveryLease) -> PushResult:
        try:
            body = Event.from_row(lease.event).model_dump_json()
            secrets = [self._encryption.decrypt(secret) for secret in lease.secrets]
            headers = signed_headers(
                lease.event.id, body, secrets=secrets, now=self._clock(), replay_id=lease.replay_id
            )
            return self._sender.send(lease.url, headers, body.encode())
        except EncryptionError as error:
            return PushResult(detail=str(error), is_local_failure=True)
        except Exception as error:
            # An unexpected error fails this delivery alone: it is retried later and blocks no other queue.
            log.exception("push not sent", event_id=lease.event.id)
            return PushResult(detail=f"the push could not be made ({type(error).__name__})", is_local_failure=True)

    def _record(
        self, lease: DeliveryLease, result: PushResult, outcome: dict[str, Any], *, continues: bool
    ) -> DeliveryLease | None:
        """Record the result; if the thread continues, lease the next queue in the same commit, which saves one."""
        try:
            with self._database.write() as session:
                target = get_target(self._database, session, lease.subscription_id) if continues else None
                record_result(self._database, session, lease, result, outcome, jitter=self._jitter())
                next_lease = self._lease_within(session, target)
        except DeliveryLeaseLostError:
            self._metrics.discarded_pushes.inc()
            log.info("delivery lease lost", subscription_id=lease.subscription_id, event_id=lease.event.id)
            return None
        if not result.is_acknowledged:
            log.warning(
                "push failed",
                subscription_id=lease.subscription_id,
                event_id=lease.event.id,
                attempt=lease.attempts + 1,
                detail=result.detail,
                is_given_up=lease.is_last and not result.is_local_failure,
                is_disabled=result.is_unsubscribed,
            )
        return next_lease

    def _release_lease(self, token: str) -> None:
        with self._database.write() as session:
            deliveries.release(session, token)

    def _notify_worker(self, subscription_id: str) -> None:
        try:
            self._notify([subscription_id])
        except OutOfReachError:
            self._metrics.failed_notifications.inc()


def _result_label(result: PushResult) -> str:
    if result.is_acknowledged:
        return "taken"
    if result.is_local_failure:
        return "not_made"
    return "refused" if result.is_answered else "no_answer"
