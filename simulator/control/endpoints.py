"""The hidden hand: everything a test, a developer or a demo may do to the simulated world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.activity.population import found_group, link_group, populate
from simulator.api.error_responses import problem
from simulator.control.actions import ACTS
from simulator.control.records import Records
from simulator.errors import AbsentError, MalformedError, SimulatorError
from simulator.faults.settings import Faults
from simulator.request_bodies import CreateWish, LifeWish, ResetWish, read_object, read_wish
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import MeldState

if TYPE_CHECKING:
    from starlette.requests import Request

    from simulator.simulation import Simulation


class ControlApi:
    """The routes under /sim."""

    def __init__(self, stage: Simulation) -> None:
        self._stage = stage

    def app(self) -> Starlette:
        """The steering as an ASGI application."""
        routes = [
            Route("/connections", self.connections, methods=["GET"]),
            Route("/connections", self.create, methods=["POST"]),
            Route("/connections/{connection_id}", self.connection, methods=["GET"]),
            Route("/connections/{connection_id}/{act}", self.act, methods=["POST"]),
            Route("/faults", self.faults, methods=["GET"]),
            Route("/faults", self.set_faults, methods=["POST"]),
            Route("/faults", self.change_faults, methods=["PATCH"]),
            Route("/life", self.life, methods=["POST"]),
            Route("/reset", self.reset, methods=["POST"]),
            *Records(self._stage).routes(),
        ]
        handlers = {SimulatorError: _refuse, HTTPException: _refuse}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def summary(self, _request: Request) -> Response:
        """How much there is of everything."""
        stage = self._stage
        return JSONResponse(
            {
                "accountId": stage.world.account_id,
                "connections": len(stage.world),
                "reads": len(stage.reads.all()),
                "webhooks": len(stage.mailbox.parcels()),
                "rate": stage.rate,
                "faults": stage.faults.model_dump(exclude_defaults=True),
            }
        )

    async def connections(self, _request: Request) -> Response:
        """The whole truth, oldest first."""
        truth = [self._stage.world.truth(one.id) for one in self._stage.world.connections()]
        return JSONResponse({"connections": truth, "count": len(truth)})

    async def connection(self, request: Request) -> Response:
        """The truth about one connection, whatever its reads answer."""
        return JSONResponse(self._stage.world.truth(request.path_params["connection_id"]))

    async def create(self, request: Request) -> Response:
        """Make connections."""
        wish = await read_wish(request, CreateWish)
        if wish.id and wish.count * wish.group > 1:
            raise MalformedError("[id] one id is for one connection")
        made = [connection_id for _ in range(wish.count) for connection_id in self._found(wish)]
        truth = [self._stage.world.truth(connection_id) for connection_id in made]
        return JSONResponse({"connections": truth, "count": len(truth)}, status_code=201)

    async def act(self, request: Request) -> Response:
        """Let something happen to a connection."""
        name, connection_id = request.path_params["act"], request.path_params["connection_id"]
        if name not in ACTS:
            raise AbsentError(f"there is no act {name}; there are {', '.join(ACTS)}")
        kind, act = ACTS[name]
        wish = await read_wish(request, kind)
        announcements = act(self._stage.world, connection_id, wish)
        parcels = self._stage.tell(announcements) if wish.announce else []
        truth = self._stage.world.truth(connection_id)
        return JSONResponse({"connection": truth, "webhooks": [parcel.view() for parcel in parcels]})

    async def faults(self, _request: Request) -> Response:
        """What goes wrong at present."""
        return JSONResponse(self._stage.faults.model_dump())

    async def set_faults(self, request: Request) -> Response:
        """These faults and no others."""
        self._stage.faults = Faults.read(await read_object(request))
        return await self.faults(request)

    async def change_faults(self, request: Request) -> Response:
        """These faults beside the present ones."""
        self._stage.faults = Faults.read(self._stage.faults.model_dump() | await read_object(request))
        return await self.faults(request)

    async def life(self, request: Request) -> Response:
        """Let the world live at a rate."""
        self._stage.rate = (await read_wish(request, LifeWish)).rate
        return JSONResponse({"rate": self._stage.rate})

    async def reset(self, request: Request) -> Response:
        """Begin anew."""
        wish = await read_wish(request, ResetWish)
        self._stage.reset()
        populate(self._stage.world, wish.connections, self._stage.random)
        return await self.summary(request)

    def _found(self, wish: CreateWish) -> list[str]:
        opening = NewConnection(**wish.model_dump(exclude={"count", "group", "status", "reason", "announce"}))
        state = MeldState(wish.status, wish.reason)
        if not wish.announce:
            return found_group(self._stage.world, wish.group, state, opening)
        members, announcements = link_group(self._stage.world, wish.group, state, opening)
        self._stage.tell(announcements)
        return members


async def _refuse(_request: Request, error: Exception) -> Response:
    return problem(error)
