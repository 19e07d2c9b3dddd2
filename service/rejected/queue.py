"""Reject: what was refused is kept, off the request path, and never at the price of an answer.

Strangers decide how much of it there is. So each process lets through so much in a second and no more, what may be
Meld's apart from what cannot be, and what waits to be written is bounded. Whatever is dropped is counted, and Meld
sends its own again.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic

from runtime import logs
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.meld.webhook import RefusedWebhook
from service.rejected.store import SIGNED, Result

log = logs.get(__name__)

LIKELY_RATE = 100.0
"""Requests a second that may be Meld's, of each reason, for as long as it goes on."""

LIKELY_BURST = 1_000
"""As many at once: Meld repeats in one moment what it has sent in one moment."""

UNLIKELY_RATE = 1.0
UNLIKELY_BURST = 50

LONGEST_QUEUE = 2_000
LARGEST_QUEUE_BYTES = 16 * 1024 * 1024
LARGEST_BATCH = 500
PAUSE_SECONDS = 0.25
"""Between two commits: the inbox needs the database more than this does."""


class TokenBucket:
    """Lets through ``burst`` at once, and ``rate`` a second for ever."""

    def __init__(self, *, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Return whether one more may pass at this moment; moments are in order."""
        since = now - self._at if self._at is not None else 0.0
        self._at = now
        self._left = min(self._burst, self._left + since * self._rate)
        if self._left < 1:
            return False
        self._left -= 1
        return True


class RejectionQueue:
    """Has refused requests written down, from one thread of its own.

    Args:
        keep: Writes a batch down and returns how many came to what; raises ``OutOfReachError``.
        metrics: Counts what became of each.
        clock: Seconds that only grow.
        pause_seconds: See ``PAUSE_SECONDS``.
    """

    def __init__(
        self,
        *,
        keep: Callable[[Sequence[RefusedWebhook]], Mapping[Result, int]],
        metrics: Metrics,
        clock: Callable[[], float] = monotonic,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._keep = keep
        self._metrics = metrics
        self._clock = clock
        self._pause_seconds = pause_seconds
        # Each its own: a forgery is wrong, and takes nothing from what is signed well and was sent too late.
        self._likely = {reason: TokenBucket(rate=LIKELY_RATE, burst=LIKELY_BURST) for reason in SIGNED}
        self._unlikely = TokenBucket(rate=UNLIKELY_RATE, burst=UNLIKELY_BURST)
        self._queue: queue.Queue[RefusedWebhook | None] = queue.Queue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reject", daemon=True)

    def __call__(self, refused: RefusedWebhook) -> None:
        """Have a refused request kept, soon, or drop it. Returns at once."""
        with self._lock:
            bucket = self._likely[refused.reason] if may_be_melds(refused) else self._unlikely
            if not bucket.take(self._clock()):
                self._count("over_rate", 1)
            elif not self._is_room(refused):
                self._count("lost", 1)
            else:
                self._waiting_bytes += len(refused.body)
                self._queue.put(refused)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Write what waits, as far as there is time, and end."""
        self._is_stopping.set()
        self._queue.put(None)
        self._thread.join(seconds)

    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._thread.is_alive()

    def _is_room(self, refused: RefusedWebhook) -> bool:
        return self._queue.qsize() < LONGEST_QUEUE and self._waiting_bytes + len(refused.body) <= LARGEST_QUEUE_BYTES

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first, *self._more()]
            with self._lock:
                self._waiting_bytes -= sum(len(refused.body) for refused in batch)
            self._write(batch)
            self._is_stopping.wait(self._pause_seconds)

    def _more(self) -> Iterator[RefusedWebhook]:
        for _ in range(LARGEST_BATCH - 1):
            try:
                refused = self._queue.get_nowait()
            except queue.Empty:
                return
            if refused is None:
                self._queue.put(None)
                return
            yield refused

    def _write(self, batch: Sequence[RefusedWebhook]) -> None:
        try:
            for result, count in self._keep(batch).items():
                self._count(result, count)
        except OutOfReachError as error:
            log.warning("refused webhooks not kept", count=len(batch), detail=str(error))
            self._count("lost", len(batch))
        except Exception as error:  # noqa: BLE001 - whatever a stranger sent, the others must not suffer for it
            self._split(batch, error)

    def _split(self, batch: Sequence[RefusedWebhook], error: Exception) -> None:
        """Find the one that spoilt its batch, by halves."""
        if len(batch) == 1:
            log.error("refused webhook cannot be kept", error=type(error).__name__)
            self._count("lost", 1)
            return
        middle = len(batch) // 2
        self._write(batch[:middle])
        self._write(batch[middle:])

    def _count(self, result: str, count: int) -> None:
        self._metrics.rejections.labels(result).inc(count)


def may_be_melds(refused: RefusedWebhook) -> bool:
    """Return whether it is worth a closer look, at the price of a glance."""
    return refused.reason in SIGNED and b'"eventId"' in refused.body
