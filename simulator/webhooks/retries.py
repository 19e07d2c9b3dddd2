"""Delivers webhooks as Meld does: ten seconds for an answer, and again for three days until it is a 200."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING

from simulator.webhooks.outgoing_webhook import DELIVERED, GIVEN_UP, LOST, RETRYING
from simulator.webhooks.sender import POSTS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
    from random import Random

    from simulator.faults.settings import Faults
    from simulator.webhooks.outgoing_webhook import OutgoingWebhook
    from simulator.webhooks.sender import WebhookSender

    Dispatch = Callable[[Sequence[OutgoingWebhook]], None]

FIRST_GAP = timedelta(minutes=1)
GREATEST_GAP = timedelta(hours=1)
PERSISTENCE = timedelta(days=3)
#: How long a reordered webhook waits to be overtaken, where the fault does not say.
SECONDS_TO_OVERTAKE = 1.0


def retry_gaps() -> Iterator[timedelta]:
    """The waits between the attempts: doubling from a minute to an hour, for three days in all."""
    gap, waited = FIRST_GAP, timedelta()
    while waited + gap <= PERSISTENCE:
        yield gap
        waited += gap
        gap = min(gap * 2, GREATEST_GAP)


class RetryingDelivery:
    """Sends parcels while it runs; what comes earlier waits until it does."""

    def __init__(
        self,
        *,
        courier: WebhookSender,
        faults: Callable[[], Faults],
        random: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        time_scale: float = 1.0,
    ) -> None:
        self._courier = courier
        self._faults = faults
        self._random = random
        self._sleep = sleep
        self._time_scale = time_scale
        self._lock = Lock()
        self._early: list[tuple[Dispatch, Sequence[OutgoingWebhook]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._overtakers: list[asyncio.Event] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver until the block ends; deliveries under way are then dropped."""
        # Made anew for every run: a semaphore belongs to one event loop.
        self._places = asyncio.Semaphore(POSTS_AT_ONCE)
        async with self._courier.ready():
            with self._lock:
                self._loop = asyncio.get_running_loop()
                early, self._early = self._early, []
            for dispatch, parcels in early:
                dispatch(parcels)
            try:
                yield
            finally:
                with self._lock:
                    self._loop = None
                self._cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, parcels: Sequence[OutgoingWebhook]) -> None:
        """Deliver them all at once, with faults; callable from any thread."""
        self._call(self._dispatch, parcels)

    def send_in_turn(self, parcels: Sequence[OutgoingWebhook]) -> None:
        """Deliver them one after the other, as they are; callable from any thread."""
        self._call(self._dispatch_in_turn, parcels)

    def forget(self) -> None:
        """Drop every delivery and retry under way, from any thread."""
        with self._lock:
            self._early.clear()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel)

    def _call(self, dispatch: Dispatch, parcels: Sequence[OutgoingWebhook]) -> None:
        with self._lock:
            if self._loop is None:
                self._early.append((dispatch, parcels))
            else:
                self._loop.call_soon_threadsafe(dispatch, parcels)

    def _dispatch_in_turn(self, parcels: Sequence[OutgoingWebhook]) -> None:
        self._spawn(self._deliver_in_turn(parcels))

    def _dispatch(self, parcels: Sequence[OutgoingWebhook]) -> None:
        faults = self._faults()
        for parcel in parcels:
            if self._random.random() < faults.lost:
                parcel.state = LOST
                continue
            for _ in range(2 if self._random.random() < faults.doubled else 1):
                self._spawn(self._deliver_late(parcel, faults))

    async def _deliver_in_turn(self, parcels: Sequence[OutgoingWebhook]) -> None:
        for parcel in parcels:
            await self._deliver(parcel)

    async def _deliver_late(self, parcel: OutgoingWebhook, faults: Faults) -> None:
        if faults.delay.strikes(self._random):
            await self._sleep(self._random.uniform(0, faults.delay.seconds))
        if faults.reordered.strikes(self._random):
            await self._let_one_pass(faults.reordered.seconds or SECONDS_TO_OVERTAKE)
        await self._deliver(parcel)
        for overtaken in self._overtakers:
            overtaken.set()
        self._overtakers.clear()

    async def _let_one_pass(self, seconds: float) -> None:
        overtaken = asyncio.Event()
        self._overtakers.append(overtaken)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await overtaken.wait()

    async def _deliver(self, parcel: OutgoingWebhook) -> None:
        if not await self._attempt(parcel, retry=0):
            self._spawn(self._retry(parcel))

    async def _retry(self, parcel: OutgoingWebhook) -> None:
        if parcel.retried:
            parcel.state = RETRYING
            for number, gap in enumerate(retry_gaps(), start=1):
                await self._sleep(gap.total_seconds() * self._time_scale)
                if await self._attempt(parcel, retry=number):
                    return
        parcel.state = GIVEN_UP

    async def _attempt(self, parcel: OutgoingWebhook, *, retry: int) -> bool:
        async with self._places:
            delivered = await self._courier.attempt(parcel, self._faults(), retry=retry)
        if delivered:
            parcel.state = DELIVERED
        return delivered

    def _spawn(self, delivery: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(delivery)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
