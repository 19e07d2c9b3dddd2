"""Waiting without sleeping for a fixed time: a condition is polled until it holds."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")
POLL_SECONDS = 0.02


def poll(condition: Callable[[], T], seconds: float) -> T:
    """Return the condition's first value that is true, or the last one, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return value


def eventually(condition: Callable[[], T], seconds: float = 10, *, message: str = "the condition") -> T:
    """Return the condition's first value that is true; fail with ``message`` where there is none in time."""
    value = poll(condition, seconds)
    if not value:
        pytest.fail(f"{message} did not come true within {seconds:g} s; the last value was {value!r}")
    return value
