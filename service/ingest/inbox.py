"""Store: the inbox. Concurrent deliveries share one commit, and each is answered only after it.

One writer thread per process takes what has queued up and writes it in one transaction: the webhooks, each once by its
event id, and one raised job per connection named by a new one. A repeat raises nothing. PostgreSQL does all of it in
one statement: the writer pays for every round trip with a hand-over of the interpreter's lock.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from runtime import logs
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.meld.webhook import ReceivedWebhook

log = logs.get(__name__)

LARGEST_BATCH = 500
LARGEST_BATCH_BYTES = 8 * 1024 * 1024
"""Bytes of bodies that share a commit: what takes the database a small part of the time that a statement may take.
Sealed they are a third more, and nothing that it could compress."""

LONGEST_QUEUE = 5_000
"""Deliveries that may wait; more are told to come again, before Meld's patience of 10 s runs out."""

ANSWER_SECONDS = 8.0


class WebhookTable(Protocol):
    """Where webhooks are kept: writes a batch in one transaction."""

    def insert(self, deliveries: Sequence[ReceivedWebhook]) -> list[str]:
        """Store deliveries, count repeats, raise jobs; return the connections whose workers should be called.

        Raises:
            OutOfReachError: The database does not answer; nothing of the batch is stored.
            Exception: Something in the batch cannot be stored; nothing of it is.
        """

    def close(self) -> None:
        """Let go of the database."""


@dataclass(slots=True)
class _Waiting:
    """A delivery that waits for its commit. The last of a turn of the loop bears the timer that the turn shares."""

    delivery: ReceivedWebhook
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[None]
    timer: asyncio.TimerHandle | None = None


class Inbox:
    """The way into the inbox: ``start``, then ``put`` from any event loop, then ``stop``.

    Args:
        table: Where webhooks are kept.
        wake: Told, after the commit, which connections' workers to call; must return at once.
        metrics: Counts.
        answer_seconds: How long a delivery may wait for its commit.
    """

    def __init__(
        self,
        *,
        table: WebhookTable,
        wake: Callable[[Collection[str]], None],
        metrics: Metrics,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._table = table
        self._wake = wake
        self._metrics = metrics
        self._answer_seconds = answer_seconds
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._is_stopping = False
        self._gathered: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}

    def start(self) -> None:
        """Start the writer."""
        self._writer.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Write what is waiting, refuse what comes later, and end."""
        self._is_stopping = True
        self._queue.put(None)
        self._writer.join(seconds)

    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._writer.is_alive()

    async def put(self, delivery: ReceivedWebhook) -> None:
        """Store a delivery; returns once it is committed, also where it is a repeat.

        Raises:
            OutOfReachError: Where it was not stored in time. It may be stored later; Meld's retry is a repeat then.
        """
        if self._is_stopping or self._queue.qsize() >= LONGEST_QUEUE:
            raise OutOfReachError("the inbox is stopping" if self._is_stopping else "the inbox is full")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        gathered = self._gathered.get(loop)
        if gathered is None:
            gathered = self._gathered[loop] = []
            loop.call_soon(self._hand_over, loop)
        gathered.append(_Waiting(delivery, loop, answer))
        await answer

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put what one turn of the loop has gathered: each put wakes the writer, which takes the interpreter's lock."""
        gathered = self._gathered.pop(loop)
        if self._is_stopping:
            # Behind the end of the queue nobody would ever look at them.
            _resolve(gathered, OutOfReachError("the inbox is stopping"))
            return
        late = OutOfReachError("the database took too long")
        gathered[-1].timer = loop.call_later(self._answer_seconds, _resolve, gathered, late)
        for waiting in gathered:
            self._queue.put(waiting)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first, *self._more(len(first.delivery.body))]
            self._metrics.batches.observe(len(batch))
            self._write(batch)
        self._table.close()

    def _write(self, batch: Sequence[_Waiting]) -> None:
        try:
            calls = self._table.insert([waiting.delivery for waiting in batch])
        except OutOfReachError as error:
            log.warning("batch not stored", size=len(batch), detail=str(error))
            _settle(batch, error)
        except Exception as error:  # noqa: BLE001 - whatever one delivery is made of, the others must not suffer for it
            self._split(batch, error)
        else:
            _settle(batch, None)
            self._wake(calls)

    def _more(self, size: int) -> Iterable[_Waiting]:
        """Take what waits, up to a batch's bounds; ``size`` is how many bytes it has already."""
        for _ in range(LARGEST_BATCH - 1):
            if size >= LARGEST_BATCH_BYTES:
                return
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return
            if waiting is None:
                self._queue.put(None)
                return
            size += len(waiting.delivery.body)
            yield waiting

    def _split(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Find the delivery that spoilt its batch, by halves."""
        if len(batch) == 1:
            log.error("webhook cannot be stored", error=type(error).__name__)
            _settle(batch, OutOfReachError("the database refused it"))
            return
        middle = len(batch) // 2
        self._write(batch[:middle])
        self._write(batch[middle:])


def _settle(batch: Sequence[_Waiting], error: OutOfReachError | None) -> None:
    """Answer all of a batch with one hand-over to the event loop: one each would cost more than the commit."""
    loops: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
    for waiting in batch:
        loops.setdefault(waiting.loop, []).append(waiting)
    for loop, mine in loops.items():
        with suppress(RuntimeError):  # the loop has ended, and with it the requests
            loop.call_soon_threadsafe(_resolve, mine, error)


def _resolve(batch: Sequence[_Waiting], error: OutOfReachError | None) -> None:
    for waiting in batch:
        if waiting.timer is not None:
            waiting.timer.cancel()
        if waiting.answer.done():
            continue
        if error is None:
            waiting.answer.set_result(None)
        else:
            waiting.answer.set_exception(error)
