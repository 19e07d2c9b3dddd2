"""HTTP client of the benchmarks: sends webhooks, one by one or concurrently, and calls the API."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.harness.signed_webhooks import PATH, SignedWebhook
from bench.harness.simulated_meld import send_request
from bench.harness.stack import ADMIN_TOKEN


class ApiClient:
    """Sends webhooks and calls the API, over a new connection each time, so that none is found closed."""

    def __init__(self, port: int) -> None:
        self._port = port

    def send(self, webhook: SignedWebhook) -> int:
        """Send a webhook and return the status code."""
        return send_request(self._port, "POST", PATH, webhook.body, webhook.headers)[0]

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON that the API answers a GET with."""
        status, content = send_request(self._port, "GET", path, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        assert status == 200, (path, status, content)
        return dict(json.loads(content))

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Call the API with any method; return the JSON of the answer, {} without a body."""
        content = json.dumps(body).encode() if body is not None else None
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        status, answer = send_request(self._port, method, path, content, headers)
        assert status < 300, (method, path, status, answer)
        return dict(json.loads(answer)) if answer else {}

    def subscribe(self, name: str, url: str, **options: object) -> str:
        """Create a subscription that pushes to a URL; return its id."""
        return str(self.call("POST", "/api/subscriptions", {"name": name, "url": url, **options})["id"])

    def events(
        self, after: int, *, wait: float = 0, connection_id: str | None = None
    ) -> tuple[list[dict[str, Any]], int]:
        """Return a page of the feed, and the position to continue after."""
        only = f"&connection_id={connection_id}" if connection_id else ""
        page = self.get(f"/api/events?after={after}&limit=1000&wait={wait:g}{only}")
        return page["events"], page["next"]

    def end_of_feed(self) -> int:
        """Return the position of the newest event."""
        after = 0
        while True:
            events, after = self.events(after)
            if not events:
                return after


def send_concurrently(port: int, webhooks: Sequence[SignedWebhook]) -> Counter[int]:
    """Send webhooks at the same time over connections opened before; return the count of each status code."""
    return asyncio.run(_send_at_once(port, webhooks))


async def _send_at_once(port: int, webhooks: Sequence[SignedWebhook]) -> Counter[int]:
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in webhooks]
    for (_, writer), webhook in zip(streams, webhooks, strict=True):
        writer.write(encode_request(webhook))
    lines = await asyncio.gather(*(reader.readline() for reader, _ in streams))
    for _, writer in streams:
        writer.close()
    return Counter(int(line.split()[1]) if line else 0 for line in lines)


def encode_request(webhook: SignedWebhook) -> bytes:
    """Encode a webhook as an HTTP request."""
    lines = [
        f"POST {PATH} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{name}: {value}" for name, value in webhook.headers.items()),
    ]
    return "\r\n".join([*lines, f"Content-Length: {len(webhook.body)}", "", ""]).encode() + webhook.body
