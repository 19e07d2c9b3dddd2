"""Polling in tests: wait until a condition is true, instead of a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")
FIRST_POLL_SECONDS = 0.005
MAX_POLL_SECONDS = 0.1
"""What takes long is looked at less often: a look at a whole service costs time that the service lacks."""


def poll(condition: Callable[[], T], seconds: float) -> T:
    """Return the first true value of the condition, or the last value after ``seconds``."""
    deadline = time.monotonic() + seconds
    pause = FIRST_POLL_SECONDS
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(pause * 1.5, MAX_POLL_SECONDS)
    return value


def eventually(condition: Callable[[], T], seconds: float = 10, *, message: str = "the condition") -> T:
    """Return the first true value of the condition; fail with ``message`` after ``seconds``."""
    value = poll(condition, seconds)
    if not value:
        pytest.fail(f"{message} did not come true within {seconds:g} s; the last value was {value!r}")
    return value
