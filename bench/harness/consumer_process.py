"""A push consumer that needs almost no CPU time: it acknowledges every push after a fixed time and records it.

Pushes to ``/hang`` are never answered; ``POST /abort-hanging`` aborts them. ``GET /pushes`` returns the records.

    python -m bench.harness.consumer_process PORT SECONDS
"""

import asyncio
import json
import re
import sys
import time
from typing import Any, cast

import uvloop

HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class PushLog:
    """The received pushes: position, connection, and the Unix times of receipt and answer."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, float, float]] = []
        self.hanging: set[asyncio.Transport] = set()

    def view(self) -> bytes:
        """Return them as JSON."""
        return json.dumps({"pushes": self.rows}).encode()

    def abort_hanging(self) -> None:
        """Abort the connections that wait for an answer."""
        for transport in self.hanging:
            transport.abort()
        self.hanging.clear()


class ConsumerProtocol(asyncio.Protocol):
    """One connection: requests with bodies, one at a time, as an HTTP/1.1 client with a pool sends them."""

    def __init__(self, pushes: PushLog, seconds: float) -> None:
        self._pushes = pushes
        self._seconds = seconds
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        """Remove a closed connection from the hanging ones."""
        self._pushes.hanging.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Handle every complete request."""
        self._received += data
        while (end := self._received.find(HEAD_END)) >= 0:
            head, start = self._received[:end], end + len(HEAD_END)
            length = _LENGTH.search(head)
            stop = start + (int(length[1]) if length else 0)
            if len(self._received) < stop:
                return
            body, self._received = self._received[start:stop], self._received[stop:]
            self._handle(head, body)

    def _handle(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /pushes"):
            self._write(200, self._pushes.view())
        elif head.startswith(b"GET /count"):
            self._write(200, str(len(self._pushes.rows)).encode())
        elif head.startswith(b"POST /abort-hanging"):
            self._pushes.abort_hanging()
            self._write(204)
        elif head.startswith(b"POST /hang"):
            self._pushes.hanging.add(self._transport)
        else:
            event, at = json.loads(body), time.time()
            asyncio.get_running_loop().call_later(self._seconds, self._acknowledge, event, at)

    def _acknowledge(self, event: dict[str, Any], at: float) -> None:
        self._pushes.rows.append((event["position"], event["subject"], at, time.time()))
        self._write(204)

    def _write(self, status: int, body: bytes = b"") -> None:
        head = f"HTTP/1.1 {status} OK\r\n"
        if status != 204:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        if not self._transport.is_closing():
            self._transport.write(f"{head}\r\n".encode() + body)


async def serve(port: int, seconds: float) -> None:
    """Serve for ever."""
    pushes = PushLog()
    server = await asyncio.get_running_loop().create_server(
        lambda: ConsumerProtocol(pushes, seconds), "127.0.0.1", port
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2])))
