"""Handlers: the decorator ``@on`` with which a module of yours registers functions that are called with events.

    from meldwatch.handlers import StatusChangedEvent, on


    @on("connection.status_changed")
    def note(event: StatusChangedEvent) -> None:
        print(event.subject, event.data.current.status)

``MELDWATCH_HANDLERS`` names the module; docs/events.md says what handlers can rely on.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from types import FunctionType
from typing import Any, TypeVar, get_args

from runtime.errors import HandlerError
from schemas.connection_changes import EventType
from schemas.events import Event, PrimaryDuplicateMovedEvent, StatusChangedEvent, StatusReasonChangedEvent
from schemas.push import PUSH_TIMEOUT_SECONDS

__all__ = [
    "Event",
    "PrimaryDuplicateMovedEvent",
    "StatusChangedEvent",
    "StatusReasonChangedEvent",
    "on",
]

Function = TypeVar("Function", bound=Callable[[Any], object])

_ATTRIBUTE = "__meldwatch__"
"""Attribute of a handler with its declaration, and of a module with the names of the handlers declared in it."""


@dataclass(frozen=True, slots=True)
class HandlerDeclaration:
    """What a handler has declared with ``@on``.

    Attributes:
        types: The event types to handle; empty: all.
        seconds: The timeout for one event.
    """

    types: tuple[EventType, ...]
    seconds: float


def on(*types: EventType, seconds: float = PUSH_TIMEOUT_SECONDS) -> Callable[[Function], Function]:
    """Register a function that is called with each event of these types; without types, with every event.

    The function stays unchanged. It may be ``async``. If it returns, the event is acknowledged. If it raises an
    exception or exceeds the timeout, it is called with the same event again later.

    Args:
        types: Event types, such as ``"connection.status_changed"``.
        seconds: The timeout for one event, at most 20; then the process of the handler is ended.

    Raises:
        HandlerError: If an event type is unknown, or the function cannot be called with an event.
    """
    if any(callable(each) for each in types):
        raise HandlerError("@on must be called: write @on() for all events, or name event types.")

    def declare(function: Function) -> Function:
        if problem := _check_function(function) or _check_arguments(types, seconds):
            raise HandlerError(f"{getattr(function, '__qualname__', repr(function))}: {problem}")
        setattr(function, _ATTRIBUTE, HandlerDeclaration(tuple(dict.fromkeys(types)), seconds))
        module = sys.modules.get(function.__module__)
        if module is not None:
            vars(module).setdefault(_ATTRIBUTE, []).append(function.__qualname__)
        return function

    return declare


def get_declaration(value: object) -> HandlerDeclaration | None:
    """Return the declaration of a handler; None if the value is no handler. Runs none of the value's code."""
    declaration = inspect.getattr_static(value, _ATTRIBUTE, None)
    return declaration if isinstance(declaration, HandlerDeclaration) else None


def list_declared_handlers(module: object) -> list[str]:
    """Return the names of the handlers that a module has declared, in order, even if the names were reassigned."""
    return list(getattr(module, _ATTRIBUTE, []))


def _check_function(function: object) -> str | None:
    if not isinstance(function, FunctionType):
        return "a handler must be a function"
    if "." in function.__qualname__ or "<" in function.__qualname__:
        return (
            "a handler must be a function of the module itself, not of a class or of another function;"
            " a decorator below @on must keep its name (functools.wraps)"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "a handler must not be a generator (a function with `yield`): calling it would not run it"
    try:
        inspect.signature(function).bind(object())
    except TypeError:
        return "a handler must take exactly one argument without a default: the event"
    return None


def _check_arguments(types: tuple[str, ...], seconds: float) -> str | None:
    known = get_args(EventType)
    for each in types:
        if each not in known:
            similar = get_close_matches(str(each), known, n=1)
            return f"{str(each)[:100]!r} is not an event type" + (f"; did you mean {similar[0]!r}?" if similar else "")
    if not 0 < seconds <= PUSH_TIMEOUT_SECONDS:
        return f"`seconds` must be above 0 and at most {PUSH_TIMEOUT_SECONDS:g}"
    return None
