"""The webhook endpoint on a real server and socket, with Meld's published secret, URL and time."""

import contextlib
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runtime.database import Database
from runtime.metrics import Metrics
from schemas.meld.webhook import ReceivedWebhook, RefusedWebhook
from service.ingest.endpoint import WebhookEndpoint
from service.ingest.inbox import Inbox, WebhookTable
from service.ingest.signature import SignatureVerifier, TimestampWindow
from service.ingest.webhook_insert import make_webhook_table
from tests.meldwatch.process.raw_http_client import request, serving
from tests.support.encryption_keys import ENCRYPTION
from tests.support.meld_signature import SECRET, SIGNED_AT, URL, sign


@dataclass(frozen=True)
class WebhookServer:
    """A running webhook server, and its metrics."""

    url: str
    metrics: Metrics

    def count(self, result: str) -> float:
        """Return the count of requests with this result."""
        return self.metrics.registry.get_sample_value("meldwatch_webhooks_total", {"result": result}) or 0


class FakeWebhookTable:
    """A ``WebhookTable`` in memory that can be made to fail or to wait.

    Attributes:
        stored: The stored webhooks, in order.
        sizes: The size of each batch.
        error: Raised instead of storing, if set.
        gate: While cleared, ``insert`` waits.
        is_closed: Whether the inbox closed the table.
    """

    def __init__(self) -> None:
        self.stored: list[ReceivedWebhook] = []
        self.sizes: list[int] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.is_closed = False

    def insert(self, webhooks: Sequence[ReceivedWebhook]) -> list[str]:
        """Store a batch, or fail, or wait."""
        self.sizes.append(len(webhooks))
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.stored += webhooks
        return sorted({each.hint.connection_id for each in webhooks if each.hint.connection_id is not None})

    def close(self) -> None:
        """Mark the table as closed."""
        self.is_closed = True


@contextlib.contextmanager
def serve_webhooks(
    store: Callable[[ReceivedWebhook], Awaitable[None]],
    *,
    reject: Callable[[RefusedWebhook], None] = lambda _refused: None,
    body_timeout_seconds: float = 3,
) -> Iterator[WebhookServer]:
    """Serve the webhook endpoint; its present time is shortly after the vector was signed."""
    metrics = Metrics()
    webhook_endpoint = WebhookEndpoint(
        verifier=SignatureVerifier(
            urls=[URL],
            secrets=[SECRET],
            window=TimestampWindow(max_age=timedelta(days=4), max_skew=timedelta(minutes=5)),
        ),
        store=store,
        reject=reject,
        clock=lambda: SIGNED_AT + timedelta(seconds=1),
        metrics=metrics,
        body_timeout_seconds=body_timeout_seconds,
    )

    async def endpoint(request: Request) -> Response:
        return await webhook_endpoint(request)

    app = Starlette(routes=[Route("/webhooks/meld", endpoint, methods=["POST"])])
    with serving(app) as url:
        yield WebhookServer(url, metrics)


@contextlib.contextmanager
def running_inbox(
    table: WebhookTable | Database,
    *,
    notify_workers: Callable[[Collection[str]], None] = lambda _ids: None,
    commit_timeout_seconds: float = 8,
) -> Iterator[Inbox]:
    """Run an inbox."""
    stored = make_webhook_table(table, ENCRYPTION) if isinstance(table, Database) else table
    inbox = Inbox(
        table=stored, notify_workers=notify_workers, metrics=Metrics(), commit_timeout_seconds=commit_timeout_seconds
    )
    inbox.start()
    try:
        yield inbox
    finally:
        inbox.stop()


def signed(body: bytes, *lines: str) -> bytes:
    """Return the bytes of a request with Meld's signature."""
    signature = sign(body).decode()
    return request(
        body, f"Meld-Signature: {signature}", "Meld-Signature-Timestamp: 2022-05-26T20:25:17.682818Z", *lines
    )


def chunked(body: bytes, size: int, *lines: str) -> bytes:
    """Return the bytes of a signed request with chunked transfer encoding."""
    head = signed(body, "Transfer-Encoding: chunked", *lines).partition(b"\r\n\r\n")[0]
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return head + b"\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
