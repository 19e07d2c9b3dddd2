"""Starlette application of the web process: composes all API operations and the webhook route from their dependencies.

It starts and stops nothing; ``meldwatch.process.composition`` does.
"""

import json
from collections.abc import Awaitable, Callable, Collection
from functools import cache

from anyio import to_thread
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
from service.http.responses import make_response
from service.http.routing import make_routes
from service.http.threadpool import ThreadPool
from service.monitoring import metrics_endpoint
from service.monitoring.health_endpoints import HealthEndpoints
from service.replay.manage import ReplayManager
from service.resources import (
    audit_log,
    connections,
    deliveries,
    duplicates,
    event_schemas,
    failures,
    rejections,
    replays,
    subscriptions,
    timeline,
    webhooks,
)
from service.resources.event_stream import MAX_STREAM_THREADS, EventStreams
from service.resources.events import EventFeed
from service.resources.timeline import Views
from service.subscriptions.manage import SubscriptionManager


def create_app(
    *,
    settings: Settings,
    database: Database,
    clock: Clock,
    webhook_endpoint: Callable[[Request], Awaitable[Response]],
    notify_workers: Callable[[Collection[str]], None],
    ping_broker: Callable[[], None],
    feed: FeedNotifier,
    subscription_manager: SubscriptionManager,
    replay_manager: ReplayManager,
    metrics: Metrics,
    views: Views,
) -> Starlette:
    """Return the application that a web process serves.

    Args:
        settings: The settings; the API tokens are used here.
        database: The database.
        clock: Returns the present time; limits the age of cached checks and gauges.
        webhook_endpoint: Answers the webhook route from the unread request.
        notify_workers: Notifies a worker for each given connection id; must return at once.
        ping_broker: Checks that the broker answers; raises ``OutOfReachError``.
        feed: Notifies waiting readers of new events. Its owner closes it before the process ends.
        subscription_manager: Creates and changes subscriptions.
        replay_manager: Creates and stops replays.
        metrics: The counters of this process.
        views: Projects observations to mirror rows, with the code that wrote the mirror.
    """
    threads = ThreadPool()
    streams = EventStreams(database=database, threads=ThreadPool(MAX_STREAM_THREADS), notifier=feed, metrics=metrics)
    operations = (
        _webhook_operation(webhook_endpoint),
        *connections.operations(database, threads, notify_workers),
        *timeline.operations(database, threads, views),
        *duplicates.operations(database, threads),
        *failures.operations(database, threads),
        *EventFeed(database=database, threads=threads, notifier=feed).operations(),
        *streams.operations(),
        *event_schemas.operations(),
        *webhooks.operations(database, threads),
        *rejections.operations(database, threads),
        *subscriptions.operations(subscription_manager, threads),
        *deliveries.operations(database, threads),
        *audit_log.operations(database, threads),
        *replays.operations(replay_manager, threads),
        *HealthEndpoints(database=database, clock=clock, ping_broker=ping_broker).operations(),
        *metrics_endpoint.operations(database=database, clock=clock, threads=threads, metrics=metrics),
    )
    return assemble_app(operations, TokenAuth(read_tokens=settings.read_tokens, admin_tokens=settings.admin_tokens))


def assemble_app(operations: tuple[Operation, ...], auth: TokenAuth) -> Starlette:
    """Return an application with these operations, and one more that serves their OpenAPI document."""
    openapi_operation = _openapi_operation(operations)
    app = Starlette(
        routes=make_routes((*operations, openapi_operation), auth),
        exception_handlers={
            MeldwatchError: problem_details.handle_meldwatch_error,
            HTTPException: problem_details.handle_http_exception,
            Exception: problem_details.handle_unexpected_error,
        },
    )
    app.router.redirect_slashes = False
    return app


def _webhook_operation(endpoint: Callable[[Request], Awaitable[Response]]) -> Operation:
    return Operation(
        method="POST",
        path="/webhooks/meld",
        operation_id="receiveWebhook",
        summary="Receive a webhook of Meld: verify its signature over the raw body, and store it before the answer.",
        access="public",
        required_headers=(
            ("Meld-Signature", "HMAC-SHA256 over time, URL and raw body, base64url."),
            ("Meld-Signature-Timestamp", "The time that the signature covers."),
        ),
        body_description="Meld's event, byte for byte as it was signed.",
        responses=(
            ResponseSpec(description="The webhook is stored, now or before.", media_type=None),
            ResponseSpec(status=401, description="The signature is missing, wrong or too old.", media_type=None),
            ResponseSpec(status=408, description="The body did not arrive within 10 s.", media_type=None),
            ResponseSpec(status=413, description="The body is longer than 1 MiB.", media_type=None),
            ResponseSpec(status=415, description="The body has a Content-Encoding.", media_type=None),
            ResponseSpec(status=503, description="The webhook could not be stored; send it again.", media_type=None),
        ),
        handler=lambda request, _query: endpoint(request),
    )


def _openapi_operation(operations: tuple[Operation, ...]) -> Operation:
    @cache
    def document() -> bytes:
        # Built when it is first requested: it takes as long as the rest of the application's start.
        return json.dumps(openapi.build_document((*operations, operation))).encode()

    async def handle(_request: Request, _query: object) -> Response:
        return make_response(await to_thread.run_sync(document))

    operation = Operation(
        method="GET",
        path="/openapi.json",
        operation_id="getDescription",
        summary="This document.",
        access="public",
        responses=(ResponseSpec(description="OpenAPI 3.1."),),
        handler=handle,
    )
    return operation
