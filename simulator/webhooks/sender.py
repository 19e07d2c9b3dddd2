"""One attempt to deliver a webhook: signature, HTTP POST, timeout; success is exactly status 200."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx2

from simulator.webhooks import signature
from simulator.webhooks.outgoing_webhook import WebhookAttempt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from simulator.faults.settings import Faults
    from simulator.webhooks.outgoing_webhook import OutgoingWebhook

RESPONSE_TIMEOUT_SECONDS = 10.0
#: Meld has many machines, but more concurrent requests than this overload a receiver on one machine.
MAX_CONCURRENT_REQUESTS = 256


class WebhookSender:
    """Sends webhooks to one URL, which is part of the signature exactly as configured."""

    def __init__(
        self,
        *,
        url: str,
        secret: str,
        clock: Callable[[], datetime],
        timeout_seconds: float = RESPONSE_TIMEOUT_SECONDS,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._transport = transport
        self._client: httpx2.AsyncClient | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Open the HTTP client for attempts until the block ends."""
        limits = httpx2.Limits(max_connections=MAX_CONCURRENT_REQUESTS)
        # attempt() has its own timeout; proxies from the environment are ignored.
        client = httpx2.AsyncClient(transport=self._transport, timeout=None, limits=limits, trust_env=False)
        async with client as self._client:
            yield

    async def attempt(self, webhook: OutgoingWebhook, faults: Faults, *, retry: int = 0) -> bool:
        """Make one attempt and record it on the webhook; return True if the status was exactly 200."""
        began_at = self._clock()
        signed_at = signature.format_timestamp(began_at, unix=faults.unix_times)
        if faults.retry_time == "old":
            signed_at = webhook.signed_at or signed_at
        webhook.signed_at = signed_at
        status, problem = await self._send(webhook, self._headers(webhook, signed_at, retry))
        webhook.attempts.append(
            WebhookAttempt(
                began_at=began_at, ended_at=self._clock(), signed_at=signed_at, status=status, problem=problem
            )
        )
        return problem is None

    async def _send(self, webhook: OutgoingWebhook, headers: dict[str, str]) -> tuple[int | None, str | None]:
        assert self._client is not None, "an attempt outside of open()"
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._client.post(self._url, content=webhook.event.body, headers=headers)
        except TimeoutError:
            return None, "Timeout"
        except httpx2.RequestError:
            return None, "Could not connect"
        ok = response.status_code == HTTPStatus.OK
        return response.status_code, None if ok else f"HTTP error: {response.status_code}"

    def _headers(self, webhook: OutgoingWebhook, signed_at: str, retry: int) -> dict[str, str]:
        body = webhook.event.body
        headers: dict[str, str | None] = {
            "Content-Type": "application/json",
            **signature.signature_headers(secret=self._secret, url=self._url, signed_at=signed_at, body=body),
        }
        if retry:
            headers |= {"Meld-Retry-Count": str(retry), "Meld-Retry-Reason": webhook.attempts[-1].problem}
        return {name: value for name, value in (headers | dict(webhook.headers)).items() if value is not None}
