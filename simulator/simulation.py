"""Composition of one simulated Meld: world, webhook outbox and delivery, faults, read log, random activity."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING

from simulator.activity.population import populate
from simulator.activity.random_activity import RandomActivity, draw_action_count
from simulator.faults.read_script import ReadScript
from simulator.faults.settings import NO_FAULTS, Faults
from simulator.read_log import ReadLog
from simulator.webhooks.outbox import WebhookOutbox
from simulator.webhooks.retries import RetryingDelivery
from simulator.webhooks.sender import WebhookSender
from simulator.world.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    import httpx2

    from simulator.webhooks.outgoing_webhook import OutgoingWebhook
    from simulator.world.webhook_payloads import WebhookEvent

#: Connections expire after hours, so they need few checks.
EXPIRY_INTERVAL_SECONDS = 15.0
#: Actions that fall into one such interval are carried out together.
ACTIVITY_INTERVAL_SECONDS = 0.02


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


class Simulation:
    """The parts of one simulated Meld; the HTTP applications and the server use them."""

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
        self._initial_faults = self.faults
        self.reads = ReadLog(utc_now)
        self.script = ReadScript()
        sender = WebhookSender(url=webhook_url, secret=webhook_secret, clock=utc_now, transport=transport)
        self.delivery = RetryingDelivery(
            sender=sender, faults=lambda: self.faults, random=Random(f"webhooks {seed}"), time_scale=time_scale
        )
        self.outbox = WebhookOutbox(clock=utc_now, delivery=self.delivery)
        self._action_times = Random(f"action times {seed}")
        self._activity = RandomActivity(self.world, Random(f"activity {seed}"))
        populate(self.world, connections, Random(f"population {seed}"))

    @property
    def faults(self) -> Faults:
        """The faults in effect, which include Meld's quirks."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self.world.quirks = faults

    def send_webhooks(self, events: Iterable[WebhookEvent]) -> list[OutgoingWebhook]:
        """Send the webhook events of an action; callable from any thread."""
        return self.outbox.enqueue(events)

    def reset(self) -> None:
        """Delete connections and records, cancel deliveries, stop the activity, and restore the initial faults."""
        self.rate = 0.0
        self.delivery.cancel_all()
        self.outbox.clear()
        self.script.clear()
        self.reads.clear()
        self.faults = self._initial_faults
        self.world.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver webhooks, run the random activity and expire connections until the block ends."""
        async with self.delivery.running():
            tasks = [asyncio.create_task(self._run_activity()), asyncio.create_task(self._run_expiry())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _run_activity(self) -> None:
        loop = asyncio.get_running_loop()
        last_run = loop.time()
        while True:
            await asyncio.sleep(ACTIVITY_INTERVAL_SECONDS)
            now = loop.time()
            for _ in range(draw_action_count(self.rate, now - last_run, self._action_times)):
                self.send_webhooks(self._activity.step())
            last_run = now

    async def _run_expiry(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_INTERVAL_SECONDS)
            self.send_webhooks(self.world.expire_due())
