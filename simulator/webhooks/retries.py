"""Delivery of webhooks with Meld's retry schedule: exponential backoff for three days; faults on the way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING

from simulator.webhooks.outgoing_webhook import DELIVERED, GIVEN_UP, LOST, RETRYING
from simulator.webhooks.sender import MAX_CONCURRENT_REQUESTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
    from random import Random

    from simulator.faults.settings import Faults
    from simulator.webhooks.outgoing_webhook import OutgoingWebhook
    from simulator.webhooks.sender import WebhookSender

    Dispatch = Callable[[Sequence[OutgoingWebhook]], None]

MIN_RETRY_INTERVAL = timedelta(minutes=1)
MAX_RETRY_INTERVAL = timedelta(hours=1)
MAX_RETRY_DURATION = timedelta(days=3)
#: How long a reordered webhook waits for a later one, if the fault gives no seconds.
DEFAULT_REORDER_SECONDS = 1.0


def retry_intervals() -> Iterator[timedelta]:
    """Yield the intervals between attempts: doubling from a minute to an hour, three days in all."""
    interval, waited = MIN_RETRY_INTERVAL, timedelta()
    while waited + interval <= MAX_RETRY_DURATION:
        yield interval
        waited += interval
        interval = min(interval * 2, MAX_RETRY_INTERVAL)


class RetryingDelivery:
    """Delivers webhooks while it runs; earlier ones are queued until it starts."""

    def __init__(
        self,
        *,
        sender: WebhookSender,
        faults: Callable[[], Faults],
        random: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        time_scale: float = 1.0,
    ) -> None:
        self._sender = sender
        self._faults = faults
        self._random = random
        self._sleep = sleep
        self._time_scale = time_scale
        self._lock = Lock()
        self._queued: list[tuple[Dispatch, Sequence[OutgoingWebhook]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reordered: list[asyncio.Event] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver until the block ends; it cancels deliveries under way."""
        # Created for every run: a semaphore belongs to one event loop.
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)
        async with self._sender.open():
            with self._lock:
                self._loop = asyncio.get_running_loop()
                queued, self._queued = self._queued, []
            for dispatch, webhooks in queued:
                dispatch(webhooks)
            try:
                yield
            finally:
                with self._lock:
                    self._loop = None
                self._cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def deliver(self, webhooks: Sequence[OutgoingWebhook]) -> None:
        """Deliver webhooks concurrently, with the faults in effect; callable from any thread."""
        self._submit(self._dispatch, webhooks)

    def deliver_in_order(self, webhooks: Sequence[OutgoingWebhook]) -> None:
        """Deliver webhooks one after the other, without faults; callable from any thread."""
        self._submit(self._dispatch_in_order, webhooks)

    def cancel_all(self) -> None:
        """Cancel every delivery and retry under way; callable from any thread."""
        with self._lock:
            self._queued.clear()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel)

    def _submit(self, dispatch: Dispatch, webhooks: Sequence[OutgoingWebhook]) -> None:
        with self._lock:
            if self._loop is None:
                self._queued.append((dispatch, webhooks))
            else:
                self._loop.call_soon_threadsafe(dispatch, webhooks)

    def _dispatch_in_order(self, webhooks: Sequence[OutgoingWebhook]) -> None:
        self._spawn(self._deliver_sequentially(webhooks))

    def _dispatch(self, webhooks: Sequence[OutgoingWebhook]) -> None:
        faults = self._faults()
        for webhook in webhooks:
            if self._random.random() < faults.lost:
                webhook.state = LOST
                continue
            for _ in range(2 if self._random.random() < faults.doubled else 1):
                self._spawn(self._deliver_with_faults(webhook, faults))

    async def _deliver_sequentially(self, webhooks: Sequence[OutgoingWebhook]) -> None:
        for webhook in webhooks:
            await self._deliver(webhook)

    async def _deliver_with_faults(self, webhook: OutgoingWebhook, faults: Faults) -> None:
        if faults.delay.occurs(self._random):
            await self._sleep(self._random.uniform(0, faults.delay.seconds))
        if faults.reordered.occurs(self._random):
            await self._wait_until_overtaken(faults.reordered.seconds or DEFAULT_REORDER_SECONDS)
        await self._deliver(webhook)
        for overtaken in self._reordered:
            overtaken.set()
        self._reordered.clear()

    async def _wait_until_overtaken(self, seconds: float) -> None:
        overtaken = asyncio.Event()
        self._reordered.append(overtaken)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await overtaken.wait()

    async def _deliver(self, webhook: OutgoingWebhook) -> None:
        if not await self._attempt(webhook, retry=0):
            self._spawn(self._retry(webhook))

    async def _retry(self, webhook: OutgoingWebhook) -> None:
        if webhook.retried:
            webhook.state = RETRYING
            for number, interval in enumerate(retry_intervals(), start=1):
                await self._sleep(interval.total_seconds() * self._time_scale)
                if await self._attempt(webhook, retry=number):
                    return
        webhook.state = GIVEN_UP

    async def _attempt(self, webhook: OutgoingWebhook, *, retry: int) -> bool:
        async with self._slots:
            delivered = await self._sender.attempt(webhook, self._faults(), retry=retry)
        if delivered:
            webhook.state = DELIVERED
        return delivered

    def _spawn(self, delivery: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(delivery)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
