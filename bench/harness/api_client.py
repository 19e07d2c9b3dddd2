"""The client: sends webhooks as Meld would, one by one or at once, and reads our API."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.harness.signed_webhooks import PATH, Signed
from bench.harness.simulated_meld import exchange
from bench.harness.stack import TOKEN


class Client:
    """One who sends webhooks and asks the API, over a new connection each time: none is found closed."""

    def __init__(self, port: int) -> None:
        self._port = port

    def send(self, webhook: Signed) -> int:
        """Send a webhook; return the status."""
        return exchange(self._port, "POST", PATH, webhook.body, webhook.headers)[0]

    def get(self, path: str) -> dict[str, Any]:
        """Return what the API answers."""
        status, content = exchange(self._port, "GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert status == 200, (path, status, content)
        return dict(json.loads(content))

    def act(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Do what an operator would; return the answer, if it has a body."""
        content = json.dumps(body).encode() if body is not None else None
        headers = {"Authorization": f"Bearer {TOKEN}"}
        status, answer = exchange(self._port, method, path, content, headers)
        assert status < 300, (method, path, status, answer)
        return dict(json.loads(answer)) if answer else {}

    def subscribe(self, name: str, url: str, **wish: object) -> str:
        """Have events pushed to a URL; return the subscription's id."""
        return str(self.act("POST", "/api/subscriptions", {"name": name, "url": url, **wish})["id"])

    def events(
        self, after: int, *, wait: float = 0, connection_id: str | None = None
    ) -> tuple[list[dict[str, Any]], int]:
        """Return a page of the feed, and where the next one begins."""
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


def send_at_once(port: int, webhooks: Sequence[Signed]) -> Counter[int]:
    """Send webhooks over as many connections, opened before, in one moment; return how often each status came."""
    return asyncio.run(_send_at_once(port, webhooks))


async def _send_at_once(port: int, webhooks: Sequence[Signed]) -> Counter[int]:
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in webhooks]
    for (_, writer), webhook in zip(streams, webhooks, strict=True):
        writer.write(request(webhook))
    lines = await asyncio.gather(*(reader.readline() for reader, _ in streams))
    for _, writer in streams:
        writer.close()
    return Counter(int(line.split()[1]) if line else 0 for line in lines)


def request(webhook: Signed) -> bytes:
    """Return a webhook as the bytes of an HTTP request."""
    lines = [
        f"POST {PATH} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{name}: {value}" for name, value in webhook.headers.items()),
    ]
    return "\r\n".join([*lines, f"Content-Length: {len(webhook.body)}", "", ""]).encode() + webhook.body
