"""Handlers in Python, as a worker and the processes that run them speak of them: one line of JSON for each message.

To a worker a handler is a subscription with a URL of its own kind, ``python:module.function``.
"""

from schemas.connection_changes import EventType
from schemas.wire_model import WireModel

HANDLER_URL_SCHEME = "python:"


def make_handler_url(name: str) -> str:
    """Return the URL of the handler of this name."""
    return HANDLER_URL_SCHEME + name


def parse_handler_name(url: str) -> str | None:
    """Return the name of the handler that a URL leads to; None where it leads to somebody else."""
    return url.removeprefix(HANDLER_URL_SCHEME) if url.startswith(HANDLER_URL_SCHEME) else None


class LoadHandlersRequest(WireModel):
    """What a new process is told first: which modules to import, and how to write its logs."""

    modules: tuple[str, ...]
    log_format: str


class Handler(WireModel):
    """A function that is called with events.

    Attributes:
        name: The name of its module and its own, with a dot between.
        types: Which events; none named: all.
        seconds: How long it may take over one.
    """

    name: str
    types: tuple[EventType, ...]
    seconds: float


class LoadHandlersResponse(WireModel):
    """The answer to the greeting: the handlers that the modules have, or what is wrong with a module."""

    handlers: tuple[Handler, ...] = ()
    problem: str | None = None


class HandlerCall(WireModel):
    """An event that a handler shall be called with, as JSON."""

    name: str
    event: str


class HandlerResult(WireModel):
    """What came of a task.

    Attributes:
        error: The kind of the error that the handler raised; None where it raised none.
        text: The error in its own words, and where it was raised; or why the handler was not called.
        is_called: Whether the handler was called at all.
    """

    error: str | None = None
    text: str | None = None
    is_called: bool = True
