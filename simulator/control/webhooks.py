"""Control routes under /sim/webhooks: list, send, withhold, release, resend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.request_bodies import ReleaseRequest, SendWebhookRequest, WithholdRequest, parse_body
from simulator.webhooks.outbox import WithholdFilter
from simulator.world.webhook_payloads import WebhookEvent, compact_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

    from simulator.simulation import Simulation
    from simulator.webhooks.outgoing_webhook import OutgoingWebhook


class WebhookControl:
    """The routes under /sim/webhooks."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def routes(self) -> list[Route]:
        """Return the routes, relative to /sim."""
        return [
            Route("/webhooks", self.list_webhooks, methods=["GET"]),
            Route("/webhooks", self.send, methods=["POST"]),
            Route("/webhooks/withhold", self.withhold, methods=["POST"]),
            Route("/webhooks/release", self.release, methods=["POST"]),
            Route("/webhooks/{event_id}/resend", self.resend, methods=["POST"]),
        ]

    async def list_webhooks(self, request: Request) -> Response:
        """List the recorded webhooks, oldest first; filters: connectionId, eventType, eventId, state."""
        return _list_response(self._simulation.outbox.webhooks(), request.query_params.items())

    async def send(self, request: Request) -> Response:
        """Send one webhook at once, even while webhooks are withheld."""
        options = await parse_body(request, SendWebhookRequest)
        event = self._custom_event(options) if "body" in options.model_fields_set else self._composed_event(options)
        webhook = self._simulation.outbox.send_custom(event, options.headers, retried=options.retry)
        return JSONResponse(webhook.view(), status_code=201)

    async def withhold(self, request: Request) -> Response:
        """Hold webhooks back from now on."""
        selected = await parse_body(request, WithholdRequest)
        self._simulation.outbox.withhold(WithholdFilter(types=selected.types, connection_ids=selected.connection_ids))
        return JSONResponse({"types": sorted(selected.types), "connectionIds": sorted(selected.connection_ids)})

    async def release(self, request: Request) -> Response:
        """Send webhooks that were held back."""
        event_ids = (await parse_body(request, ReleaseRequest)).event_ids
        outbox = self._simulation.outbox
        return _list_response(outbox.release_all() if event_ids is None else outbox.release(event_ids))

    async def resend(self, request: Request) -> Response:
        """Send the same event again."""
        webhook = self._simulation.outbox.resend(request.path_params["event_id"])
        return JSONResponse(webhook.view(), status_code=201)

    def _composed_event(self, options: SendWebhookRequest) -> WebhookEvent:
        return self._simulation.world.compose_event(
            options.event_type, options.connection_id, options.payload, event_id=options.event_id
        )

    def _custom_event(self, options: SendWebhookRequest) -> WebhookEvent:
        content = options.body if isinstance(options.body, dict) else {}
        return WebhookEvent(
            event_id=str(options.event_id or content.get("eventId") or self._simulation.world.new_id()),
            event_type=str(content.get("eventType") or options.event_type),
            connection_id=options.connection_id,
            body=options.body.encode() if isinstance(options.body, str) else compact_json(options.body),
        )


def _list_response(webhooks: Iterable[OutgoingWebhook], filters: Iterable[tuple[str, str]] = ()) -> Response:
    filters = list(filters)
    views = [webhook.view() for webhook in webhooks]
    selected = [view for view in views if all(view.get(name) == value for name, value in filters)]
    return JSONResponse({"webhooks": selected, "count": len(selected)})
