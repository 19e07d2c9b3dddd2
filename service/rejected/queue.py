"""Bounded queue of refused requests, behind a rate limit (token bucket): stores them off the request path.

A background thread stores them in batches. What exceeds a limit is dropped and counted; Meld sends its webhooks again.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import monotonic

from runtime import logs
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.meld.webhook import RefusedWebhook
from service.ingest.batch_bisection import write_bisecting
from service.rejected.limits import (
    LIKELY_BURST,
    LIKELY_PER_SECOND,
    MAX_QUEUE_BYTES,
    MAX_QUEUE_LENGTH,
    MAX_REJECTED_BODY_BYTES,
    UNLIKELY_BURST,
    UNLIKELY_PER_SECOND,
    may_be_likely,
)
from service.rejected.store import InsertResult

log = logs.get_logger(__name__)

MAX_BATCH_SIZE = 500
PAUSE_SECONDS = 0.25
"""Pause after each commit: on SQLite it holds the write lock that the inbox needs."""


class TokenBucket:
    """Rate limiter: permits ``burst`` at once, and ``per_second`` in the long run."""

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._updated_at: float | None = None

    def take(self, now: float) -> bool:
        """Take one token if there is one. ``now`` never decreases."""
        elapsed = now - self._updated_at if self._updated_at is not None else 0.0
        self._updated_at = now
        self._tokens = min(self._burst, self._tokens + elapsed * self._per_second)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class RejectionQueue:
    """Accepts refused requests within limits, and stores them from a thread.

    Args:
        insert: Stores a batch and returns counts by result; raises ``OutOfReachError``.
        metrics: Counts requests by result.
        clock: A monotonic clock, in seconds.
        pause_seconds: See ``PAUSE_SECONDS``.
    """

    def __init__(
        self,
        *,
        insert: Callable[[Sequence[RefusedWebhook]], Mapping[InsertResult, int]],
        metrics: Metrics,
        clock: Callable[[], float] = monotonic,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._insert = insert
        self._metrics = metrics
        self._clock = clock
        self._pause_seconds = pause_seconds
        self._likely_bucket = TokenBucket(per_second=LIKELY_PER_SECOND, burst=LIKELY_BURST)
        self._unlikely_bucket = TokenBucket(per_second=UNLIKELY_PER_SECOND, burst=UNLIKELY_BURST)
        self._queue: queue.SimpleQueue[RefusedWebhook | None] = queue.SimpleQueue()
        self._bytes = 0
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rejections", daemon=True)

    def __call__(self, refused: RefusedWebhook) -> None:
        """Enqueue a refused request, or drop and count it. Returns at once."""
        refused = replace(refused, body=refused.body[:MAX_REJECTED_BODY_BYTES])
        bucket = self._likely_bucket if may_be_likely(refused) else self._unlikely_bucket
        with self._lock:
            if not bucket.take(self._clock()):
                self._count("over_rate", 1)
            elif self._queue.qsize() >= MAX_QUEUE_LENGTH or self._bytes + len(refused.body) > MAX_QUEUE_BYTES:
                self._count("lost", 1)
            else:
                self._bytes += len(refused.body)
                self._queue.put(refused)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Store the waiting requests, for at most this many seconds, and stop the thread."""
        self._is_stopping.set()
        self._queue.put(None)
        self._thread.join(seconds)

    def is_alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first, *self._take_waiting()]
            for _refused, error in write_bisecting(batch, self._store):
                log.error("rejection cannot be stored", error=type(error).__name__)
                self._count("lost", 1)
            with self._lock:
                self._bytes -= sum(len(refused.body) for refused in batch)
            self._is_stopping.wait(self._pause_seconds)

    def _take_waiting(self) -> Iterator[RefusedWebhook]:
        for _ in range(MAX_BATCH_SIZE - 1):
            try:
                refused = self._queue.get_nowait()
            except queue.Empty:
                return
            if refused is None:
                self._queue.put(None)
                return
            yield refused

    def _store(self, batch: Sequence[RefusedWebhook]) -> None:
        try:
            results = self._insert(batch)
        except OutOfReachError as error:
            log.warning("rejections not stored", count=len(batch), detail=str(error))
            self._count("lost", len(batch))
            return
        for result, count in results.items():
            self._count(result, count)

    def _count(self, result: str, count: int) -> None:
        self._metrics.rejections.labels(result).inc(count)
