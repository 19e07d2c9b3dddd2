"""The part of the steering that is about webhooks and reads: send, withhold, release, script, look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.request_bodies import ReleaseWish, ScriptWish, WebhookWish, WithholdWish, read_wish
from simulator.webhooks.mailbox import Withholding
from simulator.world.webhook_payloads import Announcement, compact

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

    from simulator.simulation import Simulation
    from simulator.webhooks.outgoing_webhook import OutgoingWebhook


class Records:
    """The routes under /sim/webhooks and /sim/reads."""

    def __init__(self, stage: Simulation) -> None:
        self._stage = stage

    def routes(self) -> list[Route]:
        """Where everything is found."""
        return [
            Route("/webhooks", self.webhooks, methods=["GET"]),
            Route("/webhooks", self.send, methods=["POST"]),
            Route("/webhooks/withhold", self.withhold, methods=["POST"]),
            Route("/webhooks/release", self.release, methods=["POST"]),
            Route("/webhooks/{event_id}/resend", self.resend, methods=["POST"]),
            Route("/reads", self.reads, methods=["GET"]),
            Route("/reads", self.script, methods=["POST"]),
            Route("/reads", self.clear_reads, methods=["DELETE"]),
        ]

    async def webhooks(self, request: Request) -> Response:
        """Every webhook with its attempts, oldest first; filters connectionId, eventType, eventId, state."""
        views = [parcel.view() for parcel in self._stage.mailbox.parcels()]
        wanted = [
            view for view in views if all(view.get(name) == value for name, value in request.query_params.items())
        ]
        return JSONResponse({"webhooks": wanted, "count": len(wanted)})

    async def send(self, request: Request) -> Response:
        """Send one webhook now, withheld or not."""
        wish = await read_wish(request, WebhookWish)
        announcement = self._verbatim(wish) if "body" in wish.model_fields_set else self._composed(wish)
        parcel = self._stage.mailbox.post_as(announcement, wish.headers, retried=wish.retry)
        return JSONResponse(parcel.view(), status_code=201)

    async def withhold(self, request: Request) -> Response:
        """Hold webhooks back from now on."""
        wish = await read_wish(request, WithholdWish)
        self._stage.mailbox.withhold(Withholding(types=wish.types, connection_ids=wish.connection_ids))
        return JSONResponse({"types": sorted(wish.types), "connectionIds": sorted(wish.connection_ids)})

    async def release(self, request: Request) -> Response:
        """Send what was held back."""
        wish = await read_wish(request, ReleaseWish)
        mailbox = self._stage.mailbox
        return _listed(mailbox.release_all() if wish.event_ids is None else mailbox.release(wish.event_ids))

    async def resend(self, request: Request) -> Response:
        """Send the same event once more."""
        parcel = self._stage.mailbox.resend(request.path_params["event_id"])
        return JSONResponse(parcel.view(), status_code=201)

    async def reads(self, request: Request) -> Response:
        """Every read in the order they began, with counts per connection and of the list; filter connectionId."""
        reads = self._stage.reads
        wanted = request.query_params.get("connectionId")
        views = [read.view() for read in reads.all() if wanted in (None, read.connection_id)]
        return JSONResponse({"reads": views, "counts": reads.counts(), "lists": reads.count(None)})

    async def script(self, request: Request) -> Response:
        """Say how the next reads go."""
        wish = await read_wish(request, ScriptWish)
        self._stage.script.add(wish.connection_id, wish.steps)
        return JSONResponse({"connectionId": wish.connection_id, "steps": len(wish.steps)}, status_code=201)

    async def clear_reads(self, _request: Request) -> Response:
        """Forget the reads so far, and the script."""
        self._stage.reads.clear()
        self._stage.script.clear()
        return Response(status_code=204)

    def _composed(self, wish: WebhookWish) -> Announcement:
        world = self._stage.world
        return world.announce(wish.event_type, wish.connection_id, wish.payload, event_id=wish.event_id)

    def _verbatim(self, wish: WebhookWish) -> Announcement:
        named = wish.body if isinstance(wish.body, dict) else {}
        return Announcement(
            event_id=str(wish.event_id or named.get("eventId") or self._stage.world.new_id()),
            event_type=str(named.get("eventType") or wish.event_type),
            connection_id=wish.connection_id,
            body=wish.body.encode() if isinstance(wish.body, str) else compact(wish.body),
        )


def _listed(parcels: Iterable[OutgoingWebhook]) -> Response:
    views = [parcel.view() for parcel in parcels]
    return JSONResponse({"webhooks": views, "count": len(views)})
