"""Flood: an open flood of webhooks, so many a second whatever the answers take, in a process of its own.

    python -m bench.harness.webhook_flood PORT RATE

It says ``began``, and sends until it is told to stop (SIGTERM); then it prints, as a line of JSON, how long the answers
took. The time of each is counted from when it was due, so who stalls is charged for all that waits.
"""

import asyncio
import json
import signal
import sys
import uuid
from contextlib import suppress
from statistics import quantiles

from bench.harness.api_client import request
from bench.harness.signed_webhooks import make, url_of

SENDERS = 64
"""Connections that are kept open. What is due while all of them wait for an answer waits as well, and it counts."""

CONNECTIONS = 2_000
LAST_SECONDS = 8.0


class Flood:
    """Sends, and keeps what came of it."""

    def __init__(self, port: int, rate: float) -> None:
        self._port = port
        self._rate = rate
        self._due: asyncio.Queue[float] = asyncio.Queue()
        self._number = 0
        self.milliseconds: list[float] = []
        self.not_200 = 0

    async def run(self, is_over: asyncio.Event) -> None:
        """Send until it is over, and wait for the last answers."""
        senders = [asyncio.create_task(self._send()) for _ in range(SENDERS)]
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while not is_over.is_set():
            while began + sent / self._rate <= loop.time():
                self._due.put_nowait(began + sent / self._rate)
                sent += 1
            await asyncio.sleep(1 / self._rate)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._due.join(), LAST_SECONDS)
        for sender in senders:
            sender.cancel()
        # What has no answer by now counts as if it had one that is none.
        while not self._due.empty():
            self._note(self._due.get_nowait(), is_200=False)

    async def _send(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            due = await self._due.get()
            self._number += 1
            id_ = f"connection-{self._number % CONNECTIONS:05}"
            writer.write(request(make(url_of(self._port), id_, event_id=uuid.uuid4().hex)))
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            self._note(due, is_200=head.startswith(b"HTTP/1.1 200"))
            self._due.task_done()

    def _note(self, due: float, *, is_200: bool) -> None:
        self.milliseconds.append((asyncio.get_running_loop().time() - due) * 1000)
        self.not_200 += not is_200


async def main(port: int, rate: float) -> None:
    """Send until SIGTERM, and print what came of it."""
    is_over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_over.set)
    flood = Flood(port, rate)
    print("began", flush=True)
    await flood.run(is_over)
    percentiles = quantiles(flood.milliseconds, n=1000)
    told = {"p50": percentiles[499], "p99": percentiles[989], "p999": percentiles[998], "max": max(flood.milliseconds)}
    print(json.dumps({"sent": len(flood.milliseconds), "not_200": flood.not_200, **told}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
