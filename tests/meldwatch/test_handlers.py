import functools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from meldwatch.handlers import Event, HandlerDeclaration, StatusChangedEvent, get_declaration, on
from runtime.errors import HandlerError


def two(_event: Event, _other: int) -> None: ...


def none() -> None: ...


def several(_event: Event, *, other: int = 0) -> None: ...


def yields(_event: Event) -> Iterator[int]:
    yield 1


async def yields_later(_event: Event) -> AsyncIterator[int]:
    yield 1


class Its:
    """A class with a method."""

    def method(self, _event: Event) -> None:
        """Do nothing."""

    def __call__(self, _event: Event) -> None:
        """Do nothing."""


def nameless(function: Callable[[Event], None]) -> Callable[[Event], None]:
    def inner(event: Event) -> None:
        function(event)

    return inner


def named(function: Callable[[Event], None]) -> Callable[[Event], None]:
    return functools.wraps(function)(nameless(function))


@on("connection.status_changed", "connection.status_reason_changed", "connection.status_changed", seconds=5)
def some(_event: StatusChangedEvent) -> None: ...


@on()
async def every(_event: Event) -> None: ...


@named
@on()
def wrapped(_event: Event) -> None: ...


def test_a_handler_stays_the_function_that_it_is() -> None:
    """It bears what it is a handler of, also through a decorator that keeps what it wraps; it can be called by hand."""
    assert get_declaration(some) == HandlerDeclaration(
        ("connection.status_changed", "connection.status_reason_changed"), 5
    )
    assert get_declaration(every) == get_declaration(wrapped) == HandlerDeclaration((), 20)
    assert get_declaration(two) is None
    assert some.__name__ == "some"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: on("connection.status_change"), "did you mean 'connection.status_changed'"),  # type: ignore[arg-type]
        (lambda: on("nonsense"), "'nonsense' is not an event type"),  # type: ignore[arg-type]
        (lambda: on(["connection.status_changed"]), "is not an event type"),  # type: ignore[arg-type]
        (lambda: on(seconds=0), "above 0 and at most 20"),
        (lambda: on(seconds=21), "above 0 and at most 20"),
        (lambda: on(seconds=float("nan")), "above 0 and at most 20"),
    ],
)
def test_what_there_is_not_is_refused(make: Callable[[], Any], said: str) -> None:
    """With the name of the function, and what was probably meant."""
    with pytest.raises(HandlerError, match=said) as caught:
        make()(several)

    assert str(caught.value).startswith("several: ")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (two, "must take exactly one argument"),
        (none, "must take exactly one argument"),
        (yields, "yield"),
        (yields_later, "yield"),
        (Its.method, "a function of the module itself"),
        (Its().method, "must be a function"),
        (Its(), "must be a function"),
        (lambda _event: None, "a function of the module itself"),
        (nameless(several), "functools.wraps"),
        (print, "must be a function"),
    ],
)
def test_what_could_not_be_called_is_refused(function: Any, said: str) -> None:
    """When the module is imported, not with each event for three days."""
    with pytest.raises(HandlerError, match=said):
        on()(function)


def test_it_is_to_be_called_itself() -> None:
    """``@on`` without parentheses would take the function for a type."""
    with pytest.raises(HandlerError, match=r"write @on\(\)"):
        on(several)  # type: ignore[arg-type]


def test_who_imports_it_needs_little() -> None:
    """No database, no web framework: a process that runs handlers starts in a moment, and takes little memory."""
    script = "import sys, meldwatch.process.handler_main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert {"sqlalchemy", "starlette", "httpx2", "dramatiq", "cryptography"}.isdisjoint(loaded)
