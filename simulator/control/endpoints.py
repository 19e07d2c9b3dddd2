"""Control API under /sim: create connections, act on them, inject faults, start random activity, reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.activity.population import connect_group, create_group, populate
from simulator.api.error_responses import problem_response
from simulator.control.actions import ACTIONS
from simulator.control.reads import ReadControl
from simulator.control.webhooks import WebhookControl
from simulator.errors import AbsentError, MalformedError, SimulatorError
from simulator.faults.settings import Faults
from simulator.request_bodies import (
    ActivityRateRequest,
    CreateConnectionsRequest,
    ResetRequest,
    parse_body,
    parse_object,
)
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import MeldState

if TYPE_CHECKING:
    from starlette.requests import Request

    from simulator.simulation import Simulation


class ControlApi:
    """The control API of one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def app(self) -> Starlette:
        """Return the control API as an ASGI application, to be mounted at /sim."""
        routes = [
            Route("/connections", self.list_connections, methods=["GET"]),
            Route("/connections", self.create, methods=["POST"]),
            Route("/connections/{connection_id}", self.get_connection, methods=["GET"]),
            Route("/connections/{connection_id}/{action}", self.run_action, methods=["POST"]),
            Route("/faults", self.get_faults, methods=["GET"]),
            Route("/faults", self.set_faults, methods=["POST"]),
            Route("/faults", self.update_faults, methods=["PATCH"]),
            Route("/life", self.set_activity_rate, methods=["POST"]),
            Route("/reset", self.reset, methods=["POST"]),
            *WebhookControl(self._simulation).routes(),
            *ReadControl(self._simulation).routes(),
        ]
        handlers = {SimulatorError: _error_response, HTTPException: _error_response}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def summary(self, _request: Request) -> Response:
        """Return the number of connections, reads and webhooks, the rate, and the active faults."""
        simulation = self._simulation
        return JSONResponse(
            {
                "accountId": simulation.world.account_id,
                "connections": len(simulation.world),
                "reads": len(simulation.reads.all()),
                "webhooks": len(simulation.outbox.webhooks()),
                "rate": simulation.rate,
                "faults": simulation.faults.model_dump(exclude_defaults=True),
            }
        )

    async def list_connections(self, _request: Request) -> Response:
        """Return the present state of all connections, oldest first, regardless of faults."""
        world = self._simulation.world
        return self._connections_response([connection.id for connection in world.connections()])

    async def get_connection(self, request: Request) -> Response:
        """Return the present state of one connection, regardless of faults."""
        return JSONResponse(self._simulation.world.truth(request.path_params["connection_id"]))

    async def create(self, request: Request) -> Response:
        """Create connections, alone or in groups."""
        options = await parse_body(request, CreateConnectionsRequest)
        if options.id and options.count * options.group > 1:
            raise MalformedError("[id] an id needs a count and a group of 1")
        ids = [connection_id for _ in range(options.count) for connection_id in self._create_group(options)]
        return self._connections_response(ids, status_code=201)

    async def run_action(self, request: Request) -> Response:
        """Run an action on a connection."""
        name, connection_id = request.path_params["action"], request.path_params["connection_id"]
        if name not in ACTIONS:
            raise AbsentError(f"there is no action {name}; the actions are {', '.join(ACTIONS)}")
        body_type, action = ACTIONS[name]
        body = await parse_body(request, body_type)
        events = action(self._simulation.world, connection_id, body)
        webhooks = self._simulation.send_webhooks(events) if body.announce else []
        connection = self._simulation.world.truth(connection_id)
        return JSONResponse({"connection": connection, "webhooks": [webhook.view() for webhook in webhooks]})

    async def get_faults(self, _request: Request) -> Response:
        """Return all fault settings."""
        return JSONResponse(self._simulation.faults.model_dump())

    async def set_faults(self, request: Request) -> Response:
        """Replace all fault settings."""
        self._simulation.faults = Faults.from_json(await parse_object(request))
        return await self.get_faults(request)

    async def update_faults(self, request: Request) -> Response:
        """Change the given fault settings."""
        self._simulation.faults = Faults.from_json(self._simulation.faults.model_dump() | await parse_object(request))
        return await self.get_faults(request)

    async def set_activity_rate(self, request: Request) -> Response:
        """Set the rate of the random activity."""
        self._simulation.rate = (await parse_body(request, ActivityRateRequest)).rate
        return JSONResponse({"rate": self._simulation.rate})

    async def reset(self, request: Request) -> Response:
        """Delete everything and create a new population."""
        connections = (await parse_body(request, ResetRequest)).connections
        self._simulation.reset()
        populate(self._simulation.world, connections, self._simulation.random)
        return await self.summary(request)

    def _create_group(self, options: CreateConnectionsRequest) -> list[str]:
        details = NewConnection(**options.model_dump(exclude={"count", "group", "status", "reason", "announce"}))
        state = MeldState(options.status, options.reason)
        if not options.announce:
            return create_group(self._simulation.world, options.group, state, details)
        members, events = connect_group(self._simulation.world, options.group, state, details)
        self._simulation.send_webhooks(events)
        return members

    def _connections_response(self, connection_ids: list[str], status_code: int = 200) -> Response:
        connections = [self._simulation.world.truth(connection_id) for connection_id in connection_ids]
        return JSONResponse({"connections": connections, "count": len(connections)}, status_code=status_code)


async def _error_response(_request: Request, error: Exception) -> Response:
    return problem_response(error)
