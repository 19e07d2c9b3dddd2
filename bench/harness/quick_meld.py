"""Quick Meld: a stand-in that needs almost no CPU time; it has a fixed latency and records the time of every read.

The simulated Meld needs about a millisecond of CPU time for each read. At hundreds of reads a second on the measured
machine, that would distort the figure.

    python -m bench.harness.quick_meld PORT LATENCY_SECONDS
"""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from typing import cast

import uvloop

PREFIX = b"GET /bank-linking/connections/"
HEAD_END = b"\r\n\r\n"


class CountedReads:
    """The time of each answer, by the monotonic clock, which all processes of the machine share."""

    def __init__(self) -> None:
        self.answered: list[float] = []

    def view(self) -> bytes:
        """Return them as JSON."""
        return json.dumps({"answered": self.answered}).encode()


class QuickMeldProtocol(asyncio.Protocol):
    """One connection: requests without bodies, one at a time, as an HTTP/1.1 client with a pool sends them."""

    def __init__(self, reads: CountedReads, latency: float) -> None:
        self._reads = reads
        self._latency = latency
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self._received += data
        while (end := self._received.find(HEAD_END)) >= 0:
            head, self._received = self._received[:end], self._received[end + len(HEAD_END) :]
            if head.startswith(PREFIX):
                body = _connection(head[len(PREFIX) : head.index(b" ", len(PREFIX))].decode())
                asyncio.get_running_loop().call_later(self._latency, self._answer, body)
            else:
                self._write(self._reads.view())

    def _answer(self, body: bytes) -> None:
        self._reads.answered.append(time.monotonic())
        self._write(body)

    def _write(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(head.encode() + body)


def _connection(connection_id: str) -> bytes:
    """Return a connection in Meld's JSON; its aggregation time is now, so that every read shows a change."""
    document = {
        "id": connection_id,
        "accountId": "QfdzpX3te1cDaviihXA4D5dA6ghnT3",
        "customerId": "Qg56BnxskKokRV8rVo21Af3T4k6QKY",
        "externalCustomerId": "testCustomer1",
        "institutionId": "Ntj3AwgdridJc2rtfeheku",
        "institutionName": "Chase",
        "status": "ACTIVE",
        "statusReason": None,
        "activeDuplicateConnectionId": None,
        "duplicateConnectionIds": None,
        "products": ["BALANCES", "TRANSACTIONS"],
        "optionalProducts": ["OWNERS"],
        "regions": ["US"],
        "createdAt": "2025-01-02T03:04:05.678901Z",
        "successfullyAggregatedAt": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "serviceProviderDetails": {"serviceProvider": "PLAID", "serviceProviderConnectionId": "NXrZpLwd1eUQQqymvl9n"},
    }
    return json.dumps(document, separators=(",", ":")).encode()


async def serve(port: int, latency: float) -> None:
    """Serve for ever."""
    reads = CountedReads()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: QuickMeldProtocol(reads, latency), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2])))
