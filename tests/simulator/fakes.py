"""A clock that only the test advances, and a receiver of webhooks without a socket."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
WEBHOOK_URL = "https://receiver.example/webhooks/meld"
SECRET = "not-a-secret"


class Clock:
    """A clock that stands still until advanced."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def advance(self, **duration: float) -> None:
        """Advance by a timedelta of these arguments."""
        self.now += timedelta(**duration)


@dataclass(frozen=True)
class Received:
    """A received webhook."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The parsed body."""
        return json.loads(self.body)


class Receiver(httpx2.AsyncBaseTransport):
    """Answers each POST with the next of its answers, then 200: a status, an error to raise, or seconds to wait."""

    def __init__(self, answers: Sequence[int | Exception | float] = ()) -> None:
        self.answers = list(answers)
        self.received: list[Received] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Record the webhook and answer."""
        self.received.append(Received(headers=request.headers, body=await request.aread()))
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        return httpx2.Response(answer if isinstance(answer, int) else 200)

    @property
    def events(self) -> list[tuple[str, str | None]]:
        """Type and connection of all received webhooks, in order."""
        return [(one.event["eventType"], one.event["payload"].get("connectionId")) for one in self.received]
