"""Receive: from the socket to the 200. Limits, then verification over the raw bytes, then storage, then the answer.

Meld takes exactly 200 for success and waits 10 s. So nothing that can wait is done here: no call to Meld, none to the
broker.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from runtime import logs
from runtime.clock import Clock
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.meld.webhook import MAX_REJECTED_BODY_BYTES, ReceivedWebhook, RefusedWebhook
from service.http import problem_details
from service.http.responses import reply
from service.ingest.payload import read_hint
from service.ingest.signature import Refusal, SignatureVerifier, Verified

log = logs.get(__name__)

LONGEST_BODY = 1024 * 1024
"""Bytes: room for the raw provider webhooks and long account lists that Meld's events carry."""

LONGEST_DRAIN = 16 * LONGEST_BODY
"""Bytes of a body that is too long that are read and dropped, so that an honest sender sees the answer."""

BODY_SECONDS = 10.0
LATE = timedelta(minutes=5)
EVIDENCE = frozenset(
    {
        b"meld-signature",
        b"meld-signature-timestamp",
        b"meld-retry-count",
        b"meld-retry-reason",
        b"meld-version",
        b"content-type",
        b"user-agent",
    }
)
"""Headers that are kept with a webhook."""

LONGEST_HEADER = 500

STORED = Response(status_code=200)
"""Always the same: Meld takes exactly this for success, and reads no body."""


class WebhookEndpoint:
    """The webhook route.

    Args:
        verifier: Tells whether a request is Meld's.
        store: Stores a delivery and returns once it is committed; raises ``OutOfReachError`` if it could not be.
        reject: Told what was refused; must return at once.
        clock: The present.
        metrics: Counts every request by what became of it.
        body_seconds: How long a body may take.
    """

    def __init__(
        self,
        *,
        verifier: SignatureVerifier,
        store: Callable[[ReceivedWebhook], Awaitable[None]],
        reject: Callable[[RefusedWebhook], None],
        clock: Clock,
        metrics: Metrics,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._verifier = verifier
        self._store = store
        self._reject = reject
        self._clock = clock
        self._metrics = metrics
        self._body_seconds = body_seconds

    async def __call__(self, request: Request) -> Response:
        """Answer one request, with the statuses of the contract."""
        result, response = await self._receive(request)
        self._metrics.webhooks.labels(result).inc()
        return response

    async def _receive(self, request: Request) -> tuple[str, Response]:
        try:
            async with asyncio.timeout(self._body_seconds):
                body, size = await _read(request)
        except TimeoutError:
            return "slow", _closing(408, f"The body was not in within {self._body_seconds:g} s.")
        except ClientDisconnect:
            return "disconnected", _closing(400, "The body ended too early.")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            self._keep("encoded", request, body, size, self._clock())
            return "encoded", _closing(415, "Send the body as it is signed, without a Content-Encoding.")
        if size > LONGEST_BODY:
            self._keep("too_large", request, body, size, self._clock())
            return "too_large", _closing(413, f"The body is longer than {LONGEST_BODY} bytes.")
        return await self._check(request, body)

    async def _check(self, request: Request, body: bytes) -> tuple[str, Response]:
        now = self._clock()
        verdict = self._verifier.verify(request.headers.raw, body, now)
        if isinstance(verdict, Refusal):
            log.warning("webhook refused", reason=verdict.reason, bytes=len(body))
            self._keep(verdict.reason, request, body, len(body), now)
            return verdict.reason, _problem(401, "The signature does not hold.", headers={})
        if now - verdict.signed_at > LATE:
            self._metrics.late_webhooks.inc()
        try:
            await self._store(_delivery(request, body, verdict))
        except OutOfReachError as error:
            log.warning("webhook not stored", detail=str(error))
            return "not_stored", _problem(503, "It could not be stored. Send it again.", headers={"Retry-After": "10"})
        return "stored", STORED

    def _keep(self, reason: str, request: Request, body: bytes, size: int, now: datetime) -> None:
        self._reject(RefusedWebhook(reason, now, _evidence(request), body[:MAX_REJECTED_BODY_BYTES], size))


def _evidence(request: Request) -> dict[str, str]:
    return {
        name.decode("ascii"): value.decode("latin-1")[:LONGEST_HEADER]
        for name, value in request.headers.raw
        if name in EVIDENCE
    }


def _delivery(request: Request, body: bytes, verified: Verified) -> ReceivedWebhook:
    return ReceivedWebhook(
        body=body,
        headers=_evidence(request),
        url=verified.url,
        signed_at=verified.signed_at,
        hint=read_hint(body),
    )


async def _read(request: Request) -> tuple[bytes, int]:
    """Return the raw body, and its size. One that is too long is taken off the wire, within bounds, and cut off."""
    body = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= LONGEST_BODY:
            body += chunk
        elif size > LONGEST_DRAIN:
            break
    return bytes(body), size


def _problem(status: int, detail: str, *, headers: Mapping[str, str]) -> Response:
    problem = problem_details.describe(status, detail)
    return reply(problem, status=status, media_type=problem_details.MEDIA_TYPE, headers=headers)


def _closing(status: int, detail: str) -> Response:
    """Return an answer after which the connection ends: what is left of the body must not be read as a request."""
    return _problem(status, detail, headers={"Connection": "close"})
