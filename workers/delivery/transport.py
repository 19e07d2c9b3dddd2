"""Send: the way to a subscriber, whichever it is: to a handler in Python by its name, to all others over HTTP."""

from collections.abc import Mapping
from typing import Protocol

from schemas.handler_protocol import name_of
from schemas.push import Receipt


class PushSender(Protocol):
    """The way over HTTP."""

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Push; never raise for what the other side does."""


class HandlerRunner(Protocol):
    """The way to handlers."""

    def run(self, name: str, body: bytes) -> Receipt:
        """Call a handler with an event; never raise for what it does."""


class DeliveryTransport:
    """Takes the one way or the other, by the URL's kind.

    Args:
        push: The way over HTTP.
        run: The way to handlers.
    """

    def __init__(self, *, push: PushSender, run: HandlerRunner) -> None:
        self._push = push
        self._run = run

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Push an event. A handler is called in this process's name: there is nothing to sign."""
        name = name_of(url)
        return self._push.send(url, headers, body) if name is None else self._run.run(name, body)
