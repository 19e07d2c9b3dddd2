"""Concurrency limits of pushes (bulkhead, fairness): how many of a process's threads one subscription may use at once.

No process can know that a consumer hangs before it does. Therefore a subscription gets another thread only if at least
as many threads stay free as it already has: the first subscription gets half of the threads, the next one half of the
rest, and one thread remains for the subscription after them. Degraded subscriptions (the last push failed, or a push
takes long) share half of the threads, and take turns if these are not enough for all. A subscription whose last push
failed gets one thread.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

SLOW_PUSH_SECONDS = 2.0
"""While a push takes longer than this, and until a quicker one ends, its subscription counts as slow."""

RESERVATION_SECONDS = 2.0
"""How long a thread stays reserved for a waiting subscription: time for its message to arrive through the broker."""


class ConcurrencyLimits:
    """The threads of one process that each subscription uses. Thread-safe.

    Args:
        threads: How many threads push in this process.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, threads: int, *, now: Callable[[], float] = monotonic) -> None:
        self._threads = threads
        self._half = max(1, threads // 2)
        self._now = now
        self._lock = threading.Lock()
        self._active: Counter[str] = Counter()
        self._push_starts: dict[str, list[float]] = {}
        self._failing: set[str] = set()
        self._slow: set[str] = set()
        self._recheck_requested: set[str] = set()
        self._waiting: dict[str, None] = {}  # in the order of their refusal
        self._reserved_until: dict[str, float] = {}

    def acquire(self, subscription_id: str) -> bool:
        """Take a thread for a subscription; return False if its limit is reached.

        A refused request is not lost. If threads already work for the subscription, one of them looks for due
        deliveries once more before it ends. Otherwise the subscription waits, see ``reserve_next_waiting``.
        """
        with self._lock:
            if not self._has_capacity(subscription_id):
                if self._active[subscription_id]:
                    self._recheck_requested.add(subscription_id)
                else:
                    self._waiting[subscription_id] = None
                return False
            self._waiting.pop(subscription_id, None)
            self._reserved_until.pop(subscription_id, None)
            self._active[subscription_id] += 1
            return True

    def release_if_idle(self, subscription_id: str) -> bool:
        """Release a thread that found nothing due; return False, and keep it, if a request was refused meanwhile."""
        with self._lock:
            if subscription_id in self._recheck_requested:
                self._recheck_requested.discard(subscription_id)
                return False
            self._decrement(subscription_id)
            return True

    def release(self, subscription_id: str) -> None:
        """Release a thread, whether or not deliveries are still due."""
        with self._lock:
            self._decrement(subscription_id)

    def reserve_next_waiting(self) -> str | None:
        """Return the subscription that has waited longest of those within their limit; the caller notifies a worker.

        A thread stays reserved for it for a while. Otherwise a subscription with many due deliveries, which has just
        released a thread, would always take it back first.
        """
        with self._lock:
            subscription_id = next((each for each in self._waiting if self._has_capacity(each)), None)
            if subscription_id is not None:
                del self._waiting[subscription_id]
                self._reserved_until[subscription_id] = self._now() + RESERVATION_SECONDS
            return subscription_id

    @contextmanager
    def track_push(self, subscription_id: str) -> Iterator[None]:
        """Measure a push: a slow one limits its subscription during the push and until the next quick one."""
        with self._lock:
            started = self._now()
            self._push_starts.setdefault(subscription_id, []).append(started)
        try:
            yield
        finally:
            with self._lock:
                self._push_starts[subscription_id].remove(started)
                if not self._push_starts[subscription_id]:
                    del self._push_starts[subscription_id]
                is_slow = self._now() - started > SLOW_PUSH_SECONDS
                (self._slow.add if is_slow else self._slow.discard)(subscription_id)

    def record_result(self, subscription_id: str, *, is_acknowledged: bool) -> bool:
        """Remember whether the last push failed; return whether the subscription now exceeds its limit."""
        with self._lock:
            (self._failing.discard if is_acknowledged else self._failing.add)(subscription_id)
            return not is_acknowledged and self._active[subscription_id] > 1

    def _has_capacity(self, subscription_id: str) -> bool:
        active = self._active[subscription_id]
        free = self._threads - self._active.total()
        if self._is_degraded(subscription_id):
            degraded = sum(count for each, count in self._active.items() if self._is_degraded(each))
            now, reserved_until = self._now(), self._reserved_until.items()
            reserved = sum(each != subscription_id and now < until for each, until in reserved_until)
            free = min(free, self._half - degraded - reserved)
        limit = 1 if subscription_id in self._failing else self._half
        return active < min(limit, free)

    def _is_degraded(self, subscription_id: str) -> bool:
        if subscription_id in self._failing or subscription_id in self._slow:
            return True
        starts = self._push_starts.get(subscription_id)
        return starts is not None and self._now() - starts[0] > SLOW_PUSH_SECONDS

    def _decrement(self, subscription_id: str) -> None:
        self._active[subscription_id] -= 1
        if not self._active[subscription_id]:
            del self._active[subscription_id]
            self._recheck_requested.discard(subscription_id)
