"""One attempt to deliver a webhook: sign it, POST it, judge the answer as Meld does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx2

from simulator.webhooks import signature
from simulator.webhooks.outgoing_webhook import DeliveryAttempt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from simulator.faults.settings import Faults
    from simulator.webhooks.outgoing_webhook import OutgoingWebhook

OK = 200
SECONDS_TO_ANSWER = 10.0
#: Meld is many machines, but a receiver on one machine is not helped by more than this at once.
POSTS_AT_ONCE = 256


class WebhookSender:
    """Carries parcels to one webhook URL, which is signed exactly as it is configured."""

    def __init__(
        self,
        *,
        url: str,
        secret: str,
        clock: Callable[[], datetime],
        seconds_to_answer: float = SECONDS_TO_ANSWER,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock
        self._seconds_to_answer = seconds_to_answer
        self._transport = transport
        self._client: httpx2.AsyncClient | None = None

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Attempts can be made until the block ends."""
        limits = httpx2.Limits(max_connections=POSTS_AT_ONCE)
        # The simulator's own deadline counts, and a proxy of the environment has no business between the two.
        client = httpx2.AsyncClient(transport=self._transport, timeout=None, limits=limits, trust_env=False)
        async with client as self._client:
            yield

    async def attempt(self, parcel: OutgoingWebhook, faults: Faults, *, retry: int = 0) -> bool:
        """Try once and put it on the parcel's record; True where the answer was exactly 200."""
        began_at = self._clock()
        signed_at = signature.stamp(began_at, unix=faults.unix_times)
        if faults.retry_time == "old":
            signed_at = parcel.signed_at or signed_at
        parcel.signed_at = signed_at
        status, problem = await self._send(parcel, self._headers(parcel, signed_at, retry))
        parcel.attempts.append(
            DeliveryAttempt(
                began_at=began_at, ended_at=self._clock(), signed_at=signed_at, status=status, problem=problem
            )
        )
        return problem is None

    async def _send(self, parcel: OutgoingWebhook, headers: dict[str, str]) -> tuple[int | None, str | None]:
        assert self._client is not None, "an attempt outside of ready()"
        try:
            async with asyncio.timeout(self._seconds_to_answer):
                response = await self._client.post(self._url, content=parcel.announcement.body, headers=headers)
        except TimeoutError:
            return None, "Timeout"
        except httpx2.RequestError:
            return None, "Could not connect"
        ok = response.status_code == OK
        return response.status_code, None if ok else f"HTTP error: {response.status_code}"

    def _headers(self, parcel: OutgoingWebhook, signed_at: str, retry: int) -> dict[str, str]:
        body = parcel.announcement.body
        headers: dict[str, str | None] = {
            "Content-Type": "application/json",
            **signature.headers(secret=self._secret, url=self._url, signed_at=signed_at, body=body),
        }
        if retry:
            headers |= {"Meld-Retry-Count": str(retry), "Meld-Retry-Reason": parcel.attempts[-1].problem}
        return {name: value for name, value in (headers | dict(parcel.headers)).items() if value is not None}
