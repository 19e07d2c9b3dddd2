"""Webhook inbox with group commit: concurrent webhooks share one transaction; each is answered after its commit.

One writer thread per process takes everything that waits in a bounded queue and stores it in one transaction: new
webhooks, unique by event id, and one read request for each connection that a new webhook names. A repeat requests
nothing. On PostgreSQL this is one statement, because each round trip costs the writer thread the interpreter's lock.
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
from service.ingest.batch_bisection import write_bisecting

log = logs.get_logger(__name__)

MAX_BATCH_SIZE = 500
MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Bytes of bodies in one commit: PostgreSQL stores them in a small part of its statement timeout. Encrypted bodies are
a third longer, and cannot be compressed."""

MAX_QUEUE_LENGTH = 5_000
"""Webhooks that wait for a commit; further ones are answered 503 at once, before Meld's timeout of 10 s."""

COMMIT_TIMEOUT_SECONDS = 8.0


class WebhookTable(Protocol):
    """Stores batches of webhooks, each in one transaction."""

    def insert(self, webhooks: Sequence[ReceivedWebhook]) -> list[str]:
        """Store new webhooks, count repeats, request reads; return the connections whose workers to notify.

        Raises:
            OutOfReachError: The database does not answer; nothing of the batch is stored.
            Exception: A webhook cannot be stored; nothing of the batch is stored.
        """

    def close(self) -> None:
        """Release the database connection."""


@dataclass(slots=True)
class _PendingWebhook:
    """A webhook that waits for its commit. ``timer`` is set on the last one of each iteration of the event loop."""

    webhook: ReceivedWebhook
    loop: asyncio.AbstractEventLoop
    committed: asyncio.Future[None]
    timer: asyncio.TimerHandle | None = None


class Inbox:
    """Stores webhooks: call ``start``, then ``put`` from any event loop, then ``stop``.

    Args:
        table: The table of webhooks.
        notify_workers: Called with connection ids after each commit; must return at once.
        metrics: Counts batches.
        commit_timeout_seconds: How long a webhook may wait for its commit.
    """

    def __init__(
        self,
        *,
        table: WebhookTable,
        notify_workers: Callable[[Collection[str]], None],
        metrics: Metrics,
        commit_timeout_seconds: float = COMMIT_TIMEOUT_SECONDS,
    ) -> None:
        self._table = table
        self._notify_workers = notify_workers
        self._metrics = metrics
        self._commit_timeout_seconds = commit_timeout_seconds
        self._queue: queue.SimpleQueue[_PendingWebhook | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._is_stopping = False
        self._gathered: dict[asyncio.AbstractEventLoop, list[_PendingWebhook]] = {}

    def start(self) -> None:
        """Start the writer thread."""
        self._writer.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Refuse further webhooks, store the waiting ones, and wait for the writer thread, at most this long."""
        self._is_stopping = True
        self._queue.put(None)
        self._writer.join(seconds)

    def is_alive(self) -> bool:
        """Return whether the writer thread runs."""
        return self._writer.is_alive()

    async def put(self, webhook: ReceivedWebhook) -> None:
        """Store a webhook; returns after the commit. A repeat returns too.

        Raises:
            OutOfReachError: It was not stored in time. It may still be stored later; Meld's retry is then a repeat.
        """
        if self._is_stopping or self._queue.qsize() >= MAX_QUEUE_LENGTH:
            raise OutOfReachError("the inbox is stopping" if self._is_stopping else "the inbox is full")
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[None] = loop.create_future()
        gathered = self._gathered.get(loop)
        if gathered is None:
            gathered = self._gathered[loop] = []
            loop.call_soon(self._enqueue_gathered, loop)
        gathered.append(_PendingWebhook(webhook, loop, committed))
        await committed

    def _enqueue_gathered(self, loop: asyncio.AbstractEventLoop) -> None:
        """Enqueue all webhooks of one iteration of the event loop together.

        Each put into an empty queue wakes the writer thread, which then takes the interpreter's lock.
        """
        gathered = self._gathered.pop(loop)
        if self._is_stopping:
            # The writer ends at the None in the queue, and would never reach them.
            _complete(gathered, OutOfReachError("the inbox is stopping"))
            return
        timeout = OutOfReachError("the database took too long")
        gathered[-1].timer = loop.call_later(self._commit_timeout_seconds, _complete, gathered, timeout)
        for pending in gathered:
            self._queue.put(pending)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first, *self._take_waiting(len(first.webhook.body))]
            self._metrics.store_batch_size.observe(len(batch))
            for pending, error in write_bisecting(batch, self._commit):
                log.error("webhook cannot be stored", error=type(error).__name__)
                _complete_threadsafe([pending], OutOfReachError("the database rejected it"))
        self._table.close()

    def _take_waiting(self, size: int) -> Iterable[_PendingWebhook]:
        """Take waiting webhooks from the queue, up to a batch's limits.

        Args:
            size: Bytes that are in the batch already.
        """
        for _ in range(MAX_BATCH_SIZE - 1):
            if size >= MAX_BATCH_BYTES:
                return
            try:
                pending = self._queue.get_nowait()
            except queue.Empty:
                return
            if pending is None:
                self._queue.put(None)
                return
            size += len(pending.webhook.body)
            yield pending

    def _commit(self, batch: Sequence[_PendingWebhook]) -> None:
        try:
            connection_ids = self._table.insert([pending.webhook for pending in batch])
        except OutOfReachError as error:
            log.warning("batch not stored", size=len(batch), detail=str(error))
            _complete_threadsafe(batch, error)
            return
        _complete_threadsafe(batch, None)
        self._notify_workers(connection_ids)


def _complete_threadsafe(batch: Sequence[_PendingWebhook], error: OutOfReachError | None) -> None:
    """Complete a batch's futures with one call into each event loop; one for each future costs more than the commit."""
    loops: dict[asyncio.AbstractEventLoop, list[_PendingWebhook]] = {}
    for pending in batch:
        loops.setdefault(pending.loop, []).append(pending)
    for loop, group in loops.items():
        with suppress(RuntimeError):  # the loop was closed, and its requests with it
            loop.call_soon_threadsafe(_complete, group, error)


def _complete(batch: Sequence[_PendingWebhook], error: OutOfReachError | None) -> None:
    for pending in batch:
        if pending.timer is not None:
            pending.timer.cancel()
        if pending.committed.done():
            continue
        if error is None:
            pending.committed.set_result(None)
        else:
            pending.committed.set_exception(error)
