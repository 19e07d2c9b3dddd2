"""An HTTP connection that its application may break."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simulator.api.read_responses import SEVER

if TYPE_CHECKING:
    from asyncio import Transport

LOGGER = logging.getLogger("simulator")


class SeverableProtocol(HttpToolsProtocol):
    """Offers every request a way to break its connection without an answer.

    It logs under a name of its own: the loggers of uvicorn belong to the program that runs the simulator.
    """

    # Narrower than asyncio's promise, as in uvicorn itself.
    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take the logs away from uvicorn."""
        self.logger = LOGGER
        self.access_log = False
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        """Put the way out into the request's scope."""
        super().on_message_begin()
        self.scope["state"][SEVER] = self.transport.abort


def is_a_surprise(record: logging.LogRecord) -> bool:
    """Whether a log record is worth reading: answers that hang when the simulator stops are cancelled on purpose."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


LOGGER.addFilter(is_a_surprise)
