"""HTTP protocol of the simulator's server: lets the application abort the TCP connection of a request."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simulator.api.read_responses import ABORT_CONNECTION

if TYPE_CHECKING:
    from asyncio import Transport

LOGGER = logging.getLogger("simulator")


class AbortableProtocol(HttpToolsProtocol):
    """Puts a function into each request's scope that aborts its connection without an answer.

    It logs under its own name: uvicorn's loggers belong to the program that runs the simulator.
    """

    # Narrower than asyncio's promise, as in uvicorn itself.
    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Replace uvicorn's loggers."""
        self.logger = LOGGER
        self.access_log = False
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        """Put the abort function into the request's scope."""
        super().on_message_begin()
        self.scope["state"][ABORT_CONNECTION] = self.transport.abort


def is_unexpected(record: logging.LogRecord) -> bool:
    """Return False for the cancellation of a hanging answer, which is expected when the simulator stops."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


LOGGER.addFilter(is_unexpected)
