"""Answers to reads of Meld's API: the state of the moment the read began, with latency and injected faults."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from simulator.api.error_responses import error_status, meld_error_body
from simulator.errors import RefusedError, SimulatorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from simulator.faults.read_script import ScriptedRead
    from simulator.simulation import Simulation

#: Longer than any client waits; it bounds how long a read hangs.
MAX_HANG_SECONDS = 300.0
MIN_ERROR_STATUS = 400
#: Key in the request's state of the server's function that aborts the TCP connection.
ABORT_CONNECTION = "simulator.abort_connection"


class ConnectionAbortedByFaultError(Exception):
    """Raised instead of aborting the connection where there is no socket, as in a test client."""


class ReadResponder:
    """Answers each read and records its outcome."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    async def read(self, request: Request, connection_id: str | None, view: Callable[[ScriptedRead], Any]) -> Response:
        """Answer a read of one connection, or of the list (None).

        Args:
            request: The HTTP request.
            connection_id: The connection, None for the list.
            view: Returns the JSON to answer with, under the faults of this read.
        """
        simulation = self._simulation
        read = simulation.reads.begin(connection_id)
        faults = simulation.script.pop(connection_id) or simulation.faults.draw_read(simulation.random)
        response = self._build_response(request, faults, view)
        if await _client_leaves_within(request, simulation.faults.latency_ms / 1000 + faults.delay):
            simulation.reads.end(read, "left")
        elif faults.hang:
            simulation.reads.end(read, "left" if await _client_leaves_within(request, MAX_HANG_SECONDS) else "hung")
            _abort_connection(request)
        elif faults.cut:
            simulation.reads.end(read, "cut")
            _abort_connection(request)
        else:
            simulation.reads.end(read, "answered", response.status_code)
        return response

    def authenticate(self, request: Request) -> None:
        """Check the Authorization header; without a configured key, any value is accepted.

        Raises:
            RefusedError: It is missing or wrong.
        """
        given = request.headers.get("Authorization")
        expected = self._simulation.authorization or given
        if not given or given != expected:
            raise RefusedError("the Authorization header is missing or wrong")

    def error_response(self, status: int, message: str) -> JSONResponse:
        """Return an answer in Meld's error envelope."""
        world = self._simulation.world
        listed = self._simulation.faults.errors_listed
        body = meld_error_body(status, message, request_id=world.new_id(), now=world.now(), listed=listed)
        return JSONResponse(body, status_code=status)

    def _build_response(self, request: Request, faults: ScriptedRead, view: Callable[[ScriptedRead], Any]) -> Response:
        response = (
            self._scripted_response(faults) if _is_replaced(faults) else self._view_response(request, faults, view)
        )
        if faults.status is not None:
            response.status_code = faults.status
        response.headers.update(faults.headers)
        return response

    def _scripted_response(self, faults: ScriptedRead) -> Response:
        if not faults.has_body:
            status = faults.status or HTTPStatus.OK
            return self.error_response(status, HTTPStatus(status).phrase)
        if isinstance(faults.body, str):
            return Response(faults.body, media_type="application/json")
        return JSONResponse(faults.body)

    def _view_response(self, request: Request, faults: ScriptedRead, view: Callable[[ScriptedRead], Any]) -> Response:
        try:
            self.authenticate(request)
            return JSONResponse(view(faults))
        except SimulatorError as error:
            return self.error_response(error_status(error), str(error))


def _is_replaced(faults: ScriptedRead) -> bool:
    return faults.has_body or (faults.status is not None and faults.status >= MIN_ERROR_STATUS)


async def _client_leaves_within(request: Request, seconds: float) -> bool:
    """Wait; return True as soon as the client disconnects."""
    if not seconds:
        return False
    try:
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


def _abort_connection(request: Request) -> None:
    abort = request.scope.get("state", {}).get(ABORT_CONNECTION)
    if abort is None:
        raise ConnectionAbortedByFaultError
    abort()
