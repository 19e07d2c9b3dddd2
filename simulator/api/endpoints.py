"""Meld's public bank-linking endpoints: get, list, refresh, delete, connect and repair."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.api.error_responses import error_message, error_status
from simulator.api.read_responses import ReadResponder
from simulator.api.version_header import VersionHeaderMiddleware
from simulator.errors import SimulatorError
from simulator.request_bodies import RefreshRequest, RepairConnectRequest, StartConnectRequest, parse_body
from simulator.world import pagination
from simulator.world.new_connection import NewConnection
from simulator.world.permitted_actions import require_permitted

if TYPE_CHECKING:
    from starlette.requests import Request

    from simulator.faults.read_script import ScriptedRead
    from simulator.simulation import Simulation

CONNECTIONS = "/bank-linking/connections"
CONNECTION = f"{CONNECTIONS}/{{connection_id}}"
#: A URL that nothing serves: the actions complete and repair take the customer's part.
WIDGET = "https://widget.simulated.invalid/?connectToken="


class MeldApi:
    """Meld's public API."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._responder = ReadResponder(simulation)

    def app(self) -> Starlette:
        """Return Meld's API as an ASGI application."""
        routes = [
            Route(CONNECTIONS, self.list, methods=["GET"]),
            Route(CONNECTION, self.get, methods=["GET"]),
            Route(CONNECTION, self.delete, methods=["DELETE"]),
            Route(f"{CONNECTION}/refresh", self.refresh, methods=["POST"]),
            Route("/bank-linking/connect/start", self.start, methods=["POST"]),
            Route("/bank-linking/connect/repair", self.repair, methods=["POST"]),
        ]
        handlers = {SimulatorError: self._error_response, HTTPException: self._error_response}
        return Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(VersionHeaderMiddleware)])

    async def get(self, request: Request) -> Response:
        """Answer a read of one connection, without an envelope."""
        connection_id = request.path_params["connection_id"]

        def view(faults: ScriptedRead) -> dict[str, Any]:
            return self._simulation.world.view(connection_id, seconds_ago=faults.stale)

        return await self._responder.read(request, connection_id, view)

    async def list(self, request: Request) -> Response:
        """Answer a read of one page of the list of connections."""

        def view(faults: ScriptedRead) -> dict[str, Any]:
            query = pagination.parse_list_query(request.query_params)
            shift = faults.shift if query.after is not None else 0
            return self._simulation.world.page(query, seconds_ago=faults.stale, shift=shift)

        return await self._responder.read(request, None, view)

    async def refresh(self, request: Request) -> Response:
        """Accept a forced refresh; its effect and webhooks follow."""
        self._responder.authenticate(request)
        world = self._simulation.world
        products = (await parse_body(request, RefreshRequest)).products
        connection = world.get_refreshable(request.path_params["connection_id"], products)
        seconds = self._simulation.faults.refresh_takes
        asyncio.get_running_loop().call_later(seconds, self._apply_refresh, connection.id, products)
        return JSONResponse({"requestId": world.new_id(), "serviceProviderDetails": None})

    async def delete(self, request: Request) -> Response:
        """Delete a connection at once; its webhook confirms the deletion."""
        self._responder.authenticate(request)
        self._simulation.send_webhooks(self._simulation.world.delete(request.path_params["connection_id"]))
        return Response()

    async def start(self, request: Request) -> Response:
        """Create a connection in progress and return a token for the widget."""
        self._responder.authenticate(request)
        body = await parse_body(request, StartConnectRequest)
        connection = self._simulation.world.start(NewConnection(**body.model_dump()))
        return JSONResponse(
            {
                "id": connection.id,
                "customerId": connection.customer_id,
                "externalCustomerId": connection.external_customer_id,
                **self._widget(),
            }
        )

    async def repair(self, request: Request) -> Response:
        """Return a token for the widget; the connection keeps its state until the customer completes the repair."""
        self._responder.authenticate(request)
        world = self._simulation.world
        connection = world.connection((await parse_body(request, RepairConnectRequest)).connection_id)
        require_permitted("repair", connection.state, world.quirks)
        institution_id = connection.institution.id if connection.institution else None
        return JSONResponse({"id": connection.id, "institutionId": institution_id, **self._widget()})

    def _apply_refresh(self, connection_id: str, products: tuple[str, ...]) -> None:
        # A refresh that has become impossible since its acceptance has no effect, as at Meld.
        with suppress(SimulatorError):
            self._simulation.send_webhooks(self._simulation.world.refresh(connection_id, products))

    def _widget(self) -> dict[str, str]:
        token = self._simulation.world.new_id()
        return {"connectToken": token, "widgetUrl": f"{WIDGET}{token}"}

    async def _error_response(self, _request: Request, error: Exception) -> Response:
        return self._responder.error_response(error_status(error), error_message(error))
