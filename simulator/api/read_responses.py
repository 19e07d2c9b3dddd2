"""Answers reads of Meld's API: the truth of the moment they began, after whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from simulator.api.error_responses import meld_error, status_of
from simulator.errors import RefusedError, SimulatorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from simulator.faults.read_script import ScriptedRead
    from simulator.simulation import Simulation

#: Longer than any client waits, so that nothing hangs for ever.
SECONDS_TO_HANG = 300.0
ERRORS_FROM = 400
#: Under this name the server offers a way to break the connection of a request.
SEVER = "simulator.sever"


class ConnectionCutError(Exception):
    """The connection breaks here; raised where there is no socket to break."""


class ReadResponder:
    """Answers each read and records how it went."""

    def __init__(self, stage: Simulation) -> None:
        self._stage = stage

    async def read(self, request: Request, connection_id: str | None, look: Callable[[ScriptedRead], Any]) -> Response:
        """The answer to a read of one connection, or of the list (None)."""
        stage = self._stage
        read = stage.reads.begin(connection_id)
        step = stage.script.take(connection_id) or stage.faults.draw(stage.random)
        response = self._answer(request, step, look)
        if await _left_within(request, stage.faults.latency_ms / 1000 + step.delay):
            stage.reads.end(read, "left")
        elif step.hang:
            stage.reads.end(read, "left" if await _left_within(request, SECONDS_TO_HANG) else "hung")
            _sever(request)
        elif step.cut:
            stage.reads.end(read, "cut")
            _sever(request)
        else:
            stage.reads.end(read, "answered", response.status_code)
        return response

    def check(self, request: Request) -> None:
        """Nothing, or RefusedError without the Authorization header that is wanted."""
        given = request.headers.get("Authorization")
        wanted = self._stage.authorization or given
        if not given or given != wanted:
            raise RefusedError("the Authorization header is missing or wrong")

    def error(self, status: int, message: str) -> JSONResponse:
        """An answer in Meld's error envelope."""
        world = self._stage.world
        listed = self._stage.faults.errors_listed
        body = meld_error(status, message, request_id=world.new_id(), now=world.now(), listed=listed)
        return JSONResponse(body, status_code=status)

    def _answer(self, request: Request, step: ScriptedRead, look: Callable[[ScriptedRead], Any]) -> Response:
        response = self._scripted(step) if _replaced(step) else self._true(request, step, look)
        if step.status is not None:
            response.status_code = step.status
        response.headers.update(step.headers)
        return response

    def _scripted(self, step: ScriptedRead) -> Response:
        if not step.scripted:
            status = step.status or HTTPStatus.OK
            return self.error(status, HTTPStatus(status).phrase)
        if isinstance(step.body, str):
            return Response(step.body, media_type="application/json")
        return JSONResponse(step.body)

    def _true(self, request: Request, step: ScriptedRead, look: Callable[[ScriptedRead], Any]) -> Response:
        try:
            self.check(request)
            return JSONResponse(look(step))
        except SimulatorError as error:
            return self.error(status_of(error), str(error))


def _replaced(step: ScriptedRead) -> bool:
    return step.scripted or (step.status is not None and step.status >= ERRORS_FROM)


async def _left_within(request: Request, seconds: float) -> bool:
    """Wait; True as soon as the client has gone."""
    if not seconds:
        return False
    try:
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


def _sever(request: Request) -> None:
    sever = request.scope.get("state", {}).get(SEVER)
    if sever is None:
        raise ConnectionCutError
    sever()
