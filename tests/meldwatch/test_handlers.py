import functools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from meldwatch.handlers import Event, HandlerDeclaration, StatusChangedEvent, get_declaration, on
from runtime.errors import HandlerError


def two_arguments(_event: Event, _other: int) -> None: ...


def no_argument() -> None: ...


def optional_argument(_event: Event, *, other: int = 0) -> None: ...


def generator(_event: Event) -> Iterator[int]:
    yield 1


async def async_generator(_event: Event) -> AsyncIterator[int]:
    yield 1


class WithMethod:
    """A class with a method."""

    def method(self, _event: Event) -> None:
        """Do nothing."""

    def __call__(self, _event: Event) -> None:
        """Do nothing."""


def wrap_without_name(function: Callable[[Event], None]) -> Callable[[Event], None]:
    def inner(event: Event) -> None:
        function(event)

    return inner


def wrap_with_name(function: Callable[[Event], None]) -> Callable[[Event], None]:
    return functools.wraps(function)(wrap_without_name(function))


@on("connection.status_changed", "connection.status_reason_changed", "connection.status_changed", seconds=5)
def for_some_types(_event: StatusChangedEvent) -> None: ...


@on()
async def for_every_type(_event: Event) -> None: ...


@wrap_with_name
@on()
def wrapped(_event: Event) -> None: ...


def test_a_declared_handler_is_still_a_function() -> None:
    """The declaration is an attribute, also behind ``functools.wraps``; the function can be called directly."""
    assert get_declaration(for_some_types) == HandlerDeclaration(
        ("connection.status_changed", "connection.status_reason_changed"), 5
    )
    assert get_declaration(for_every_type) == get_declaration(wrapped) == HandlerDeclaration((), 20)
    assert get_declaration(two_arguments) is None
    assert for_some_types.__name__ == "for_some_types"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: on("connection.status_change"), "did you mean 'connection.status_changed'"),  # type: ignore[arg-type]
        (lambda: on("nonsense"), "'nonsense' is not an event type"),  # type: ignore[arg-type]
        (lambda: on(["connection.status_changed"]), "is not an event type"),  # type: ignore[arg-type]
        (lambda: on(seconds=0), "above 0 and at most 20"),
        (lambda: on(seconds=21), "above 0 and at most 20"),
        (lambda: on(seconds=float("nan")), "above 0 and at most 20"),
    ],
)
def test_invalid_declarations_are_refused(make: Callable[[], Any], message: str) -> None:
    """The error names the function and suggests a correction."""
    with pytest.raises(HandlerError, match=message) as caught:
        make()(optional_argument)

    assert str(caught.value).startswith("optional_argument: ")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (two_arguments, "must take exactly one argument"),
        (no_argument, "must take exactly one argument"),
        (generator, "yield"),
        (async_generator, "yield"),
        (WithMethod.method, "a function of the module itself"),
        (WithMethod().method, "must be a function"),
        (WithMethod(), "must be a function"),
        (lambda _event: None, "a function of the module itself"),
        (wrap_without_name(optional_argument), "functools.wraps"),
        (print, "must be a function"),
    ],
)
def test_invalid_functions_are_refused(function: Any, message: str) -> None:
    """The import of the module fails, not each event for three days."""
    with pytest.raises(HandlerError, match=message):
        on()(function)


def test_missing_parentheses_are_refused() -> None:
    """``@on`` without parentheses would take the function for an event type."""
    with pytest.raises(HandlerError, match=r"write @on\(\)"):
        on(optional_argument)  # type: ignore[arg-type]


def test_handler_processes_import_little() -> None:
    """A process that runs handlers imports no database and no web framework: it starts fast and needs little memory."""
    script = "import sys, meldwatch.process.handler_main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert {"sqlalchemy", "starlette", "httpx2", "dramatiq", "cryptography"}.isdisjoint(loaded)
