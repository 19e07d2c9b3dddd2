import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from service.monitoring.bounded_probe import BoundedProbe
from tests.service.fakes import HandClock
from tests.support.polling import eventually


class FakeCheck:
    """A check that counts its runs, and returns when it may."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_return = threading.Event()
        self.may_return.set()

    def __call__(self) -> int:
        """Return the number of runs."""
        self.runs += 1
        assert self.may_return.wait(10)
        return self.runs


def result_of(probe: BoundedProbe[int], seconds: float = 5) -> int | None:
    """Return the probe's result, from an event loop of its own."""
    return asyncio.run(probe.result(seconds))


def probe_of(check: Callable[[], int], clock: HandClock) -> BoundedProbe[int]:
    """Return a probe that caches results for two seconds."""
    return BoundedProbe(check, clock=clock, max_age=timedelta(seconds=2))


def test_a_result_is_cached_for_a_while() -> None:
    """Within its age it is returned again; then the check runs again."""
    clock, check = HandClock(), FakeCheck()
    probe = probe_of(check, clock)

    results = [result_of(probe)]
    for seconds in (1.9, 0.1, 1.9):
        clock.move(seconds)
        results.append(result_of(probe))

    assert results == [1, 1, 2, 2]


def test_a_clock_that_is_set_back_does_not_prolong_the_age() -> None:
    """A result from the future is not used."""
    clock, check = HandClock(), FakeCheck()
    probe = probe_of(check, clock)
    result_of(probe)

    clock.move(-3600)

    assert result_of(probe) == 2


def test_a_check_that_hangs_runs_into_the_timeout() -> None:
    """No caller waits longer, no second run begins meanwhile, and the late result counts."""
    clock, check = HandClock(), FakeCheck()
    probe = probe_of(check, clock)
    check.may_return.clear()

    timeouts = [result_of(probe, 0.05) for _ in range(3)]
    clock.move(1)
    check.may_return.set()

    assert (timeouts, result_of(probe), check.runs) == ([None, None, None], 1, 1)


def test_concurrent_callers_share_one_run() -> None:
    """One thread runs the check, however many callers wait."""
    check = FakeCheck()
    probe = probe_of(check, HandClock())

    async def scene() -> list[int | None]:
        return await asyncio.gather(*(probe.result(5) for _ in range(100)))

    assert (asyncio.run(scene()), check.runs) == ([1] * 100, 1)


def test_an_exception_of_the_check_reaches_the_caller() -> None:
    """The check runs again later."""
    clock, calls = HandClock(), iter([ZeroDivisionError("x"), None])

    def check() -> int:
        if (error := next(calls)) is not None:
            raise error
        return 1

    probe = probe_of(check, clock)
    with pytest.raises(ZeroDivisionError):
        result_of(probe)
    clock.move(2)

    assert result_of(probe) == 1


def test_no_thread_is_left() -> None:
    """The thread ends with its result."""
    result_of(probe_of(FakeCheck(), HandClock()))

    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "probe"])
