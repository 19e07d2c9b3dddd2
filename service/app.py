"""App: the operations and what they need, wired into one application. It starts and stops nothing."""

import json
from collections.abc import Awaitable, Callable, Collection

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import MeldwatchError
from runtime.metrics import Metrics
from runtime.settings import Settings
from service.feed.notifier import FeedNotifier
from service.http import openapi, problem_details
from service.http.auth import TokenAuth
from service.http.operation import Operation, ResponseSpec
from service.http.responses import reply
from service.http.routing import make_routes
from service.http.threadpool import ThreadPool
from service.monitoring import gauges
from service.monitoring.health import Health
from service.replay.manage import ReplayManager
from service.resources import event_schemas, replays, subscriptions
from service.resources.audit_log import AuditLog
from service.resources.connections import Connections
from service.resources.deliveries import Deliveries
from service.resources.duplicates import Duplicates
from service.resources.event_stream import THREADS as STREAM_THREADS
from service.resources.event_stream import EventStreams
from service.resources.events import Events
from service.resources.failures import Failures
from service.resources.rejections import Rejections
from service.resources.timeline import Timelines, Views
from service.resources.webhooks import Webhooks
from service.subscriptions.manage import SubscriptionManager


def create_app(
    *,
    settings: Settings,
    database: Database,
    clock: Clock,
    receive: Callable[[Request], Awaitable[Response]],
    wake: Callable[[Collection[str]], None],
    ping_broker: Callable[[], None],
    feed: FeedNotifier,
    subscribe: SubscriptionManager,
    replay: ReplayManager,
    metrics: Metrics,
    views: Views,
) -> Starlette:
    """Return the application that a web process serves.

    Args:
        settings: Who may read and act.
        database: The database.
        clock: The present; tells how old remembered answers are.
        receive: Answers the webhook route, untouched.
        wake: Told which connections' workers to call; must return at once.
        ping_broker: Asks the broker for a sign of life; raises ``OutOfReachError``.
        feed: Tells when there are new events; whoever ends the process closes it first.
        subscribe: What is done with subscriptions.
        replay: What is done with replays.
        metrics: What this process counts.
        views: Folds observations, as the mirror was made of them.
    """
    threads = ThreadPool()
    events = Events(database=database, threads=threads, growth=feed)
    streams = EventStreams(
        database=database, threads=ThreadPool(STREAM_THREADS), events=events, growth=feed, metrics=metrics
    )
    operations = (
        _receiving(receive),
        *Connections(database=database, threads=threads, wake=wake).operations(),
        *Timelines(database=database, threads=threads, views=views).operations(),
        *Duplicates(database=database, threads=threads).operations(),
        *Failures(database=database, threads=threads).operations(),
        *events.operations(),
        *streams.operations(),
        *event_schemas.operations(),
        *Webhooks(database=database, threads=threads).operations(),
        *Rejections(database=database, threads=threads).operations(),
        *subscriptions.operations(subscribe, threads),
        *Deliveries(database=database, threads=threads).operations(),
        *AuditLog(database=database, threads=threads).operations(),
        *replays.operations(replay, threads),
        *Health(database=database, clock=clock, ping_broker=ping_broker).operations(),
        *gauges.operations(database=database, clock=clock, threads=threads, metrics=metrics),
    )
    return assemble(operations, TokenAuth(read_tokens=settings.read_tokens, admin_tokens=settings.admin_tokens))


def assemble(operations: tuple[Operation, ...], access: TokenAuth) -> Starlette:
    """Return the application that knows these operations, and the one that describes them all."""
    described = _describing(operations)
    app = Starlette(
        routes=make_routes((*operations, described), access),
        exception_handlers={
            MeldwatchError: problem_details.of_error,
            HTTPException: problem_details.of_status,
            Exception: problem_details.of_unforeseen,
        },
    )
    app.router.redirect_slashes = False
    return app


def _receiving(receive: Callable[[Request], Awaitable[Response]]) -> Operation:
    return Operation(
        method="POST",
        path="/webhooks/meld",
        name="receiveWebhook",
        summary="Meld's webhooks: signed over the raw body, and stored before the answer.",
        need="nothing",
        headers=(
            ("Meld-Signature", "HMAC-SHA256 over time, URL and raw body, base64url."),
            ("Meld-Signature-Timestamp", "The time that is signed."),
        ),
        body="Meld's event, byte for byte as signed.",
        answers=(
            ResponseSpec(description="Stored, now or before.", media_type=None),
            ResponseSpec(status=401, description="The signature is missing or wrong, or too old.", media_type=None),
            ResponseSpec(status=408, description="The body was not in within 10 s.", media_type=None),
            ResponseSpec(status=413, description="The body is longer than 1 MiB.", media_type=None),
            ResponseSpec(status=415, description="The body is encoded.", media_type=None),
            ResponseSpec(status=503, description="It could not be stored; send it again.", media_type=None),
        ),
        handle=lambda request, _query: receive(request),
    )


def _describing(operations: tuple[Operation, ...]) -> Operation:
    async def handle(_request: Request, _query: object) -> Response:
        return reply(text)

    description = Operation(
        method="GET",
        path="/openapi.json",
        name="getDescription",
        summary="This document.",
        need="nothing",
        answers=(ResponseSpec(description="OpenAPI 3.1."),),
        handle=handle,
    )
    text = json.dumps(openapi.document((*operations, description))).encode()
    return description
