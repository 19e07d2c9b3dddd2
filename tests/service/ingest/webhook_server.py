"""The webhook route on a real server and a real socket, with Meld's published secret, URL and time."""

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
class Door:
    """A served webhook route, and what it counted."""

    url: str
    metrics: Metrics

    def count(self, result: str) -> float:
        """Return how many requests came to this."""
        return self.metrics.registry.get_sample_value("meldwatch_webhooks_total", {"result": result}) or 0


class Shelf:
    """A table in memory that can be told to fail or to wait: implements ``service.ingest.inbox.WebhookTable``.

    Attributes:
        kept: What was stored, in order.
        sizes: How large each batch was.
        error: Raised instead of storing, where it is set.
        gate: Closed, it holds every batch up.
        is_closed: Whether it was let go of.
    """

    def __init__(self) -> None:
        self.kept: list[ReceivedWebhook] = []
        self.sizes: list[int] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.is_closed = False

    def insert(self, deliveries: Sequence[ReceivedWebhook]) -> list[str]:
        """Keep a batch, or fail, or wait."""
        self.sizes.append(len(deliveries))
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.kept += deliveries
        return sorted({each.hint.connection_id for each in deliveries if each.hint.connection_id is not None})

    def close(self) -> None:
        """Note that nothing will come any more."""
        self.is_closed = True


@contextlib.contextmanager
def door(
    store: Callable[[ReceivedWebhook], Awaitable[None]],
    *,
    reject: Callable[[RefusedWebhook], None] = lambda _refused: None,
    body_seconds: float = 3,
) -> Iterator[Door]:
    """Serve the webhook route in front of a store; its present is shortly after the vector was signed."""
    metrics = Metrics()
    receive = WebhookEndpoint(
        verifier=SignatureVerifier(
            urls=[URL],
            secrets=[SECRET],
            window=TimestampWindow(max_age=timedelta(days=4), max_skew=timedelta(minutes=5)),
        ),
        store=store,
        reject=reject,
        clock=lambda: SIGNED_AT + timedelta(seconds=1),
        metrics=metrics,
        body_timeout_seconds=body_seconds,
    )

    async def endpoint(request: Request) -> Response:
        return await receive(request)

    app = Starlette(routes=[Route("/webhooks/meld", endpoint, methods=["POST"])])
    with serving(app) as url:
        yield Door(url, metrics)


@contextlib.contextmanager
def inbox(
    table: WebhookTable | Database,
    *,
    wake: Callable[[Collection[str]], None] = lambda _ids: None,
    answer_seconds: float = 8,
) -> Iterator[Inbox]:
    """Run an inbox before a table."""
    kept = make_webhook_table(table, ENCRYPTION) if isinstance(table, Database) else table
    inbox = Inbox(table=kept, notify_workers=wake, metrics=Metrics(), commit_timeout_seconds=answer_seconds)
    inbox.start()
    try:
        yield inbox
    finally:
        inbox.stop()


def signed(body: bytes, *lines: str) -> bytes:
    """Return a request with Meld's signature, byte for byte."""
    signature = sign(body).decode()
    return request(
        body, f"Meld-Signature: {signature}", "Meld-Signature-Timestamp: 2022-05-26T20:25:17.682818Z", *lines
    )


def chunked(body: bytes, size: int, *lines: str) -> bytes:
    """Return the same in chunks."""
    head = signed(body, "Transfer-Encoding: chunked", *lines).partition(b"\r\n\r\n")[0]
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return head + b"\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
