"""Transport of a delivery, chosen by the subscription's URL: ``python:`` calls a handler, others get an HTTP push."""

from collections.abc import Mapping
from typing import Protocol

from schemas.handler_protocol import parse_handler_name
from schemas.push import PushResult


class PushSender(Protocol):
    """Sends events to subscribers."""

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> PushResult:
        """Push within the time of a lease; return every failure of the consumer as a result, never raise it."""


class HandlerRunner(Protocol):
    """Runs event handlers written in Python."""

    def run(self, name: str, body: bytes) -> PushResult:
        """Call a handler with an event; return every failure of the handler as a result, never raise it."""


class DeliveryTransport:
    """Sends each event over HTTP or to a handler.

    Args:
        http: Sends pushes over HTTP.
        handlers: Runs handlers.
    """

    def __init__(self, *, http: PushSender, handlers: HandlerRunner) -> None:
        self._http = http
        self._handlers = handlers

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> PushResult:
        """Push an event, or call the handler that the URL names; a handler gets no headers."""
        name = parse_handler_name(url)
        return self._http.send(url, headers, body) if name is None else self._handlers.run(name, body)
