"""Everything of one simulated Meld, put together; the HTTP faces and the server only hold it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING

from simulator.activity.population import populate
from simulator.activity.random_activity import RandomActivity, arrivals
from simulator.faults.settings import NO_FAULTS, Faults
from simulator.read_log import ReadLog, Script
from simulator.webhooks.mailbox import Mailbox
from simulator.webhooks.retries import RetryingDelivery
from simulator.webhooks.sender import WebhookSender
from simulator.world.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    import httpx2

    from simulator.webhooks.outgoing_webhook import OutgoingWebhook
    from simulator.world.webhook_payloads import Announcement

#: Connections expire after hours, so a look now and then is enough.
SECONDS_BETWEEN_EXPIRIES = 15.0
#: Acts that fall closer together than this happen at once.
SECONDS_BETWEEN_ACTS = 0.02


def utc_now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


class Simulation:
    """The world, its post, its faults and its records."""

    def __init__(
        self,
        *,
        webhook_url: str,
        webhook_secret: str,
        api_key: str | None = None,
        connections: int = 0,
        rate: float = 0.0,
        seed: int = 1,
        faults: Faults = NO_FAULTS,
        time_scale: float = 1.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.authorization = f"BASIC {api_key}" if api_key else None
        self.rate = rate
        self.random = Random(f"reads {seed}")
        self.world = World(clock=utc_now, random=Random(seed))
        self.faults = faults
        self._initial = self.faults
        self.reads = ReadLog(utc_now)
        self.script = Script()
        courier = WebhookSender(url=webhook_url, secret=webhook_secret, clock=utc_now, transport=transport)
        self.post = RetryingDelivery(
            courier=courier, faults=lambda: self.faults, random=Random(f"post {seed}"), time_scale=time_scale
        )
        self.mailbox = Mailbox(clock=utc_now, carrier=self.post)
        self._arrivals = Random(f"arrivals {seed}")
        self._life = RandomActivity(self.world, Random(f"life {seed}"))
        populate(self.world, connections, Random(f"population {seed}"))

    @property
    def faults(self) -> Faults:
        """What goes wrong at present."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self.world.habits = faults

    def tell(self, announcements: Iterable[Announcement]) -> list[OutgoingWebhook]:
        """Send what an act of the world has announced; callable from any thread."""
        return self.mailbox.post(announcements)

    def reset(self) -> None:
        """An empty world with the faults of the start: nothing on record, nothing under way, no life."""
        self.rate = 0.0
        self.post.forget()
        self.mailbox.clear()
        self.script.clear()
        self.reads.clear()
        self.faults = self._initial
        self.world.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver webhooks, live and expire until the block ends."""
        async with self.post.running():
            tasks = [asyncio.create_task(self._live()), asyncio.create_task(self._expire())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        lived_until = loop.time()
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_ACTS)
            now = loop.time()
            for _ in range(arrivals(self.rate, now - lived_until, self._arrivals)):
                self.tell(self._life.step())
            lived_until = now

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_EXPIRIES)
            self.tell(self.world.expire_due())
