"""Webhook endpoint (POST /webhooks/meld): read the body within limits, verify the signature, store, answer 200.

Meld accepts exactly 200 as success and waits 10 s for it. So the endpoint calls neither Meld nor the broker.
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
from schemas.meld.webhook import ReceivedWebhook, RefusedWebhook
from service.http import problem_details
from service.http.responses import make_response
from service.ingest.payload import parse_hint
from service.ingest.signature import SignatureRefusal, SignatureVerifier, VerifiedSignature

log = logs.get_logger(__name__)

MAX_BODY_BYTES = 1024 * 1024
"""Longest body: Meld's events contain raw webhooks of providers, and long lists of accounts."""

MAX_DISCARDED_BYTES = 16 * MAX_BODY_BYTES
"""Bytes of a too long body that are read and discarded: most clients read the response only after sending the body."""

BODY_TIMEOUT_SECONDS = 10.0
LATE_SIGNATURE_AGE = timedelta(minutes=5)
"""Webhooks with an older signature are counted: Meld did not sign the retry again."""

STORED_HEADERS = frozenset(
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
"""Headers that are stored with a webhook."""

MAX_HEADER_CHARACTERS = 500

STORED_RESPONSE = Response(status_code=200)
"""Meld accepts exactly this as success, and ignores the body."""


class WebhookEndpoint:
    """Handler of the webhook route.

    Args:
        verifier: Verifies signatures.
        store: Stores a webhook and returns after the commit; raises ``OutOfReachError`` if that fails.
        reject: Enqueues a refused request for the rejection store; must return at once.
        clock: Returns the present time.
        metrics: Counts every request by its result.
        body_timeout_seconds: How long receiving the body may take.
    """

    def __init__(
        self,
        *,
        verifier: SignatureVerifier,
        store: Callable[[ReceivedWebhook], Awaitable[None]],
        reject: Callable[[RefusedWebhook], None],
        clock: Clock,
        metrics: Metrics,
        body_timeout_seconds: float = BODY_TIMEOUT_SECONDS,
    ) -> None:
        self._verifier = verifier
        self._store = store
        self._reject = reject
        self._clock = clock
        self._metrics = metrics
        self._body_timeout_seconds = body_timeout_seconds

    async def __call__(self, request: Request) -> Response:
        """Answer one request and count its result."""
        result, response = await self._handle(request)
        self._metrics.webhooks.labels(result).inc()
        return response

    async def _handle(self, request: Request) -> tuple[str, Response]:
        try:
            async with asyncio.timeout(self._body_timeout_seconds):
                body, size = await _read_body(request)
        except TimeoutError:
            return "slow", _problem_and_close(408, f"The body did not arrive within {self._body_timeout_seconds:g} s.")
        except ClientDisconnect:
            return "disconnected", _problem_and_close(400, "The client disconnected before the end of the body.")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            self._enqueue_rejection("encoded", request, body, size, self._clock())
            return "encoded", _problem_and_close(415, "Send the body as it is signed, without a Content-Encoding.")
        if size > MAX_BODY_BYTES:
            self._enqueue_rejection("too_large", request, body, size, self._clock())
            return "too_large", _problem_and_close(413, f"The body is longer than {MAX_BODY_BYTES} bytes.")
        return await self._verify_and_store(request, body)

    async def _verify_and_store(self, request: Request, body: bytes) -> tuple[str, Response]:
        now = self._clock()
        verdict = self._verifier.verify(request.headers.raw, body, now)
        if isinstance(verdict, SignatureRefusal):
            log.warning("webhook refused", reason=verdict.reason, bytes=len(body))
            self._enqueue_rejection(verdict.reason, request, body, len(body), now)
            return verdict.reason, _problem(401, "The signature is not valid.", headers={})
        if now - verdict.signed_at > LATE_SIGNATURE_AGE:
            self._metrics.late_webhooks.inc()
        try:
            await self._store(_received_webhook(request, body, verdict))
        except OutOfReachError as error:
            log.warning("webhook not stored", detail=str(error))
            return "not_stored", _problem(
                503, "The webhook could not be stored. Send it again.", headers={"Retry-After": "10"}
            )
        return "stored", STORED_RESPONSE

    def _enqueue_rejection(self, reason: str, request: Request, body: bytes, size: int, now: datetime) -> None:
        self._reject(RefusedWebhook(reason, now, _stored_headers(request), body, size))


def _stored_headers(request: Request) -> dict[str, str]:
    return {
        name.decode("ascii"): value.decode("latin-1")[:MAX_HEADER_CHARACTERS]
        for name, value in request.headers.raw
        if name in STORED_HEADERS
    }


def _received_webhook(request: Request, body: bytes, verified: VerifiedSignature) -> ReceivedWebhook:
    return ReceivedWebhook(
        body=body,
        headers=_stored_headers(request),
        url=verified.url,
        signed_at=verified.signed_at,
        hint=parse_hint(body),
    )


async def _read_body(request: Request) -> tuple[bytes, int]:
    """Return the body, cut off at ``MAX_BODY_BYTES``, and its size; discards the rest up to ``MAX_DISCARDED_BYTES``."""
    body = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            body += chunk
        elif size > MAX_DISCARDED_BYTES:
            break
    return bytes(body), size


def _problem(status: int, detail: str, *, headers: Mapping[str, str]) -> Response:
    problem = problem_details.make_problem(status, detail)
    return make_response(problem, status=status, media_type=problem_details.MEDIA_TYPE, headers=headers)


def _problem_and_close(status: int, detail: str) -> Response:
    """Return a response that closes the connection: unread bytes of the body must not be parsed as a request."""
    return _problem(status, detail, headers={"Connection": "close"})
