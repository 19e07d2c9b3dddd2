"""Handlers: what a module of yours imports, so that functions of its own are called with events.

    from meldwatch.handlers import StatusChangedEvent, on


    @on("connection.status_changed")
    def note(event: StatusChangedEvent) -> None:
        print(event.subject, event.data.current.status)

``MELDWATCH_HANDLERS`` names the module; docs/events.md says what a handler may rely on.
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
from schemas.push import PUSH_SECONDS

__all__ = [
    "Event",
    "PrimaryDuplicateMovedEvent",
    "StatusChangedEvent",
    "StatusReasonChangedEvent",
    "on",
]

Function = TypeVar("Function", bound=Callable[[Any], object])

_OWN = "__meldwatch__"
"""Where a handler bears its mark, and a module the names of those that it has declared."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a function is a handler of.

    Attributes:
        types: Which events; none named: all.
        seconds: How long it may take over one.
    """

    types: tuple[EventType, ...]
    seconds: float


def on(*types: EventType, seconds: float = PUSH_SECONDS) -> Callable[[Function], Function]:
    """Have a function called with each event of these types; with none named, of all, those to come as well.

    The function is taken as it is. It may be ``async``. That it returns is its word that the event is dealt with; an
    exception, or more time than it may take, has it called with the same event again, later.

    Args:
        types: Types of events, such as ``"connection.status_changed"``.
        seconds: How long it may take over one event, at most 20; then its process is ended.

    Raises:
        HandlerError: Where a type is none, or the function cannot be called with an event.
    """
    if any(callable(each) for each in types):
        raise HandlerError("@on is to be called: write @on() for all events, or name types.")

    def declare(function: Function) -> Function:
        if problem := _problem_of(function) or _problem_in(types, seconds):
            raise HandlerError(f"{getattr(function, '__qualname__', repr(function))}: {problem}")
        setattr(function, _OWN, Mark(tuple(dict.fromkeys(types)), seconds))
        module = sys.modules.get(function.__module__)
        if module is not None:
            vars(module).setdefault(_OWN, []).append(function.__qualname__)
        return function

    return declare


def mark_of(value: object) -> Mark | None:
    """Return the mark that something bears; None where it is no handler. Nothing of its own is run."""
    mark = inspect.getattr_static(value, _OWN, None)
    return mark if isinstance(mark, Mark) else None


def declared_in(module: object) -> list[str]:
    """Return the names of the handlers that a module has declared, in order, whatever became of them."""
    return list(getattr(module, _OWN, []))


def _problem_of(function: object) -> str | None:
    if not isinstance(function, FunctionType):
        return "a handler must be a function"
    if "." in function.__qualname__ or "<" in function.__qualname__:
        return (
            "a handler must be a function of the module itself, not of a class or of another function;"
            " a decorator below @on must keep its name (functools.wraps)"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "a function with `yield` in it does nothing when it is called"
    try:
        inspect.signature(function).bind(object())
    except TypeError:
        return "a handler must take the event, and nothing else that has no default"
    return None


def _problem_in(types: tuple[str, ...], seconds: float) -> str | None:
    known = get_args(EventType)
    for each in types:
        if each not in known:
            meant = get_close_matches(str(each), known, n=1)
            return f"{str(each)[:100]!r} is no event type" + (f"; {meant[0]!r} is" if meant else "")
    if not 0 < seconds <= PUSH_SECONDS:
        return f"`seconds` must be above 0 and at most {PUSH_SECONDS:g}"
    return None
