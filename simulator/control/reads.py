"""Control routes under /sim/reads: list the reads of Meld's API, script the next ones, clear both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.request_bodies import ScriptReadsRequest, parse_body

if TYPE_CHECKING:
    from starlette.requests import Request

    from simulator.simulation import Simulation


class ReadControl:
    """The routes under /sim/reads."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def routes(self) -> list[Route]:
        """Return the routes, relative to /sim."""
        return [
            Route("/reads", self.list_reads, methods=["GET"]),
            Route("/reads", self.script, methods=["POST"]),
            Route("/reads", self.clear, methods=["DELETE"]),
        ]

    async def list_reads(self, request: Request) -> Response:
        """List the reads in the order they began, with counts; filter: connectionId."""
        reads = self._simulation.reads
        connection_id = request.query_params.get("connectionId")
        views = [read.view() for read in reads.all() if connection_id in (None, read.connection_id)]
        return JSONResponse({"reads": views, "counts": reads.counts(), "lists": reads.count(None)})

    async def script(self, request: Request) -> Response:
        """Script the next reads of a connection, or of the list."""
        script = await parse_body(request, ScriptReadsRequest)
        self._simulation.script.add(script.connection_id, script.steps)
        return JSONResponse({"connectionId": script.connection_id, "steps": len(script.steps)}, status_code=201)

    async def clear(self, _request: Request) -> Response:
        """Delete the recorded reads and the script."""
        self._simulation.reads.clear()
        self._simulation.script.clear()
        return Response(status_code=204)
