"""Messages between a worker and its handler processes: one JSON line each.

For a worker, a handler is a subscription with a URL of the form ``python:module.function``.
"""

from schemas.connection_changes import EventType
from schemas.wire_model import WireModel

HANDLER_URL_SCHEME = "python:"


def make_handler_url(name: str) -> str:
    """Return the URL of the handler of this name."""
    return HANDLER_URL_SCHEME + name


def parse_handler_name(url: str) -> str | None:
    """Return the name of the handler in a URL; None if the URL is not one of a handler."""
    return url.removeprefix(HANDLER_URL_SCHEME) if url.startswith(HANDLER_URL_SCHEME) else None


class LoadHandlersRequest(WireModel):
    """The first message to a new process: the modules to import, and the log format."""

    modules: tuple[str, ...]
    log_format: str


class Handler(WireModel):
    """A function that is called with events.

    Attributes:
        name: The names of its module and of the function, with a dot between.
        types: The event types to handle; an empty list means all.
        seconds: The timeout for one event.
    """

    name: str
    types: tuple[EventType, ...]
    seconds: float


class LoadHandlersResponse(WireModel):
    """The response: the handlers in the modules, or what is wrong with a module."""

    handlers: tuple[Handler, ...] = ()
    problem: str | None = None


class HandlerCall(WireModel):
    """A call of a handler with an event, as JSON."""

    name: str
    event: str


class HandlerResult(WireModel):
    """The result of a call.

    Attributes:
        error: The class name of the exception that the handler raised; None if it raised none.
        text: The message of the exception, and where it was raised; or why the handler was not called.
        is_called: Whether the handler was called at all.
    """

    error: str | None = None
    text: str | None = None
    is_called: bool = True
