import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meldwatch.process.periodic_task import PeriodicTask
from runtime.errors import OutOfReachError
from tests.support.polling import eventually


@contextmanager
def running_task(is_due: Callable[[float], bool], run: Callable[[], dict[str, int]]) -> Iterator[PeriodicTask]:
    """Run a task that is checked every few milliseconds."""
    task = PeriodicTask("reconcile", is_due=is_due, run=run, every_seconds=0.01, is_stopping=threading.Event())
    task.start()
    yield task
    task.stop()


def test_a_task_runs_when_it_is_due() -> None:
    """It does not run before, and ``is_due`` gets the interval."""
    answers = iter([False, True, False])
    intervals: list[float] = []
    done: list[int] = []

    def is_due(every_seconds: float) -> bool:
        intervals.append(every_seconds)
        return next(answers, False)

    with running_task(is_due, lambda: done.append(len(intervals)) or {}) as task:
        eventually(lambda: len(intervals) > 4)
        assert task.is_alive()

    assert not task.is_alive()
    assert done == [2]
    assert set(intervals) == {0.01}


def test_a_failed_task_is_tried_again() -> None:
    """After an outage or any other error, the next attempt may succeed."""
    errors = iter([OutOfReachError("outage"), ValueError("strange")])
    tried: list[int] = []

    def run() -> dict[str, int]:
        tried.append(1)
        for error in errors:
            raise error
        return {"rows": 1}

    with running_task(lambda _seconds: True, run) as task:
        eventually(lambda: len(tried) > 3)
        assert task.is_alive()
