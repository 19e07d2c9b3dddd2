"""The public face: Meld's bank-linking endpoints, as far as a mirror and a demo need them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.api.error_responses import message_of, status_of
from simulator.api.read_responses import ReadResponder
from simulator.api.version_header import VersionEcho
from simulator.errors import SimulatorError
from simulator.request_bodies import RefreshWish, RepairWish, StartWish, read_wish
from simulator.world import listing
from simulator.world.new_connection import NewConnection
from simulator.world.permitted_actions import insist

if TYPE_CHECKING:
    from starlette.requests import Request

    from simulator.faults.read_script import ScriptedRead
    from simulator.simulation import Simulation

CONNECTIONS = "/bank-linking/connections"
CONNECTION = f"{CONNECTIONS}/{{connection_id}}"
#: Nobody answers there: the customer's part is played by the acts complete and repair.
WIDGET = "https://widget.simulated.invalid/?connectToken="


class MeldApi:
    """Meld, seen from outside."""

    def __init__(self, stage: Simulation) -> None:
        self._stage = stage
        self._answerer = ReadResponder(stage)

    def app(self) -> Starlette:
        """Meld's API as an ASGI application."""
        routes = [
            Route(CONNECTIONS, self.list, methods=["GET"]),
            Route(CONNECTION, self.get, methods=["GET"]),
            Route(CONNECTION, self.delete, methods=["DELETE"]),
            Route(f"{CONNECTION}/refresh", self.refresh, methods=["POST"]),
            Route("/bank-linking/connect/start", self.start, methods=["POST"]),
            Route("/bank-linking/connect/repair", self.repair, methods=["POST"]),
        ]
        handlers = {SimulatorError: self._refuse, HTTPException: self._refuse}
        return Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(VersionEcho)])

    async def get(self, request: Request) -> Response:
        """One connection, bare."""
        connection_id = request.path_params["connection_id"]

        def look(step: ScriptedRead) -> dict[str, Any]:
            return self._stage.world.view(connection_id, seconds_ago=step.stale)

        return await self._answerer.read(request, connection_id, look)

    async def list(self, request: Request) -> Response:
        """A page of connections."""

        def look(step: ScriptedRead) -> dict[str, Any]:
            query = listing.parse(request.query_params)
            shift = step.shift if query.after is not None else 0
            return self._stage.world.page(query, seconds_ago=step.stale, shift=shift)

        return await self._answerer.read(request, None, look)

    async def refresh(self, request: Request) -> Response:
        """Accepted; the effect and its webhooks follow."""
        self._answerer.check(request)
        world = self._stage.world
        products = (await read_wish(request, RefreshWish)).products
        connection = world.refreshable(request.path_params["connection_id"], products)
        seconds = self._stage.faults.refresh_takes
        asyncio.get_running_loop().call_later(seconds, self._refresh, connection.id, products)
        return JSONResponse({"requestId": world.new_id(), "serviceProviderDetails": None})

    async def delete(self, request: Request) -> Response:
        """Gone at once; the webhook is the acknowledgement."""
        self._answerer.check(request)
        self._stage.tell(self._stage.world.delete(request.path_params["connection_id"]))
        return Response()

    async def start(self, request: Request) -> Response:
        """A new connection in progress, and a token for the widget."""
        self._answerer.check(request)
        wish = await read_wish(request, StartWish)
        connection = self._stage.world.start(NewConnection(**wish.model_dump()))
        return JSONResponse(
            {
                "id": connection.id,
                "customerId": connection.customer_id,
                "externalCustomerId": connection.external_customer_id,
                **self._widget(),
            }
        )

    async def repair(self, request: Request) -> Response:
        """A token for the widget; the connection keeps its state until the customer is done."""
        self._answerer.check(request)
        world = self._stage.world
        connection = world.connection((await read_wish(request, RepairWish)).connection_id)
        insist("repair", connection.state, world.habits)
        institution_id = connection.institution.id if connection.institution else None
        return JSONResponse({"id": connection.id, "institutionId": institution_id, **self._widget()})

    def _refresh(self, connection_id: str, products: tuple[str, ...]) -> None:
        # What has become impossible since it was accepted ends in silence, as at Meld.
        with suppress(SimulatorError):
            self._stage.tell(self._stage.world.refresh(connection_id, products))

    def _widget(self) -> dict[str, str]:
        token = self._stage.world.new_id()
        return {"connectToken": token, "widgetUrl": f"{WIDGET}{token}"}

    async def _refuse(self, _request: Request, error: Exception) -> Response:
        return self._answerer.error(status_of(error), message_of(error))
