"""Open-loop load: a fixed rate of webhooks regardless of the response times, in its own process.

    python -m bench.harness.webhook_flood PORT RATE

It prints ``began`` and sends until SIGTERM; then it prints the latencies as a line of JSON. A latency counts from the
time at which the webhook was due, so that a stall of the service counts for all waiting webhooks.
"""

import asyncio
import json
import signal
import sys
import uuid
from contextlib import suppress
from statistics import quantiles

from bench.harness.api_client import encode_request
from bench.harness.signed_webhooks import make_webhook, webhook_url

SENDERS = 64
"""Open connections. While all of them wait for an answer, due webhooks wait too, and their latency counts."""

CONNECTIONS = 2_000
DRAIN_TIMEOUT_SECONDS = 8.0


class Flood:
    """Sends webhooks and records their latencies."""

    def __init__(self, port: int, rate: float) -> None:
        self._port = port
        self._rate = rate
        self._due: asyncio.Queue[float] = asyncio.Queue()
        self._number = 0
        self.milliseconds: list[float] = []
        self.not_200 = 0

    async def run(self, is_stopped: asyncio.Event) -> None:
        """Send until the event is set, then wait for the last answers."""
        senders = [asyncio.create_task(self._send()) for _ in range(SENDERS)]
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while not is_stopped.is_set():
            while began + sent / self._rate <= loop.time():
                self._due.put_nowait(began + sent / self._rate)
                sent += 1
            await asyncio.sleep(1 / self._rate)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._due.join(), DRAIN_TIMEOUT_SECONDS)
        for sender in senders:
            sender.cancel()
        # Webhooks without an answer count as not answered 200.
        while not self._due.empty():
            self._record(self._due.get_nowait(), is_200=False)

    async def _send(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            due = await self._due.get()
            self._number += 1
            id_ = f"connection-{self._number % CONNECTIONS:05}"
            writer.write(encode_request(make_webhook(webhook_url(self._port), id_, event_id=uuid.uuid4().hex)))
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            self._record(due, is_200=head.startswith(b"HTTP/1.1 200"))
            self._due.task_done()

    def _record(self, due: float, *, is_200: bool) -> None:
        self.milliseconds.append((asyncio.get_running_loop().time() - due) * 1000)
        self.not_200 += not is_200


async def main(port: int, rate: float) -> None:
    """Send until SIGTERM, then print the result."""
    is_stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_stopped.set)
    flood = Flood(port, rate)
    print("began", flush=True)
    await flood.run(is_stopped)
    percentiles = quantiles(flood.milliseconds, n=1000)
    latencies = {
        "p50": percentiles[499],
        "p99": percentiles[989],
        "p999": percentiles[998],
        "max": max(flood.milliseconds),
    }
    print(json.dumps({"sent": len(flood.milliseconds), "not_200": flood.not_200, **latencies}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
