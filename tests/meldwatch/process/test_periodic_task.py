import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meldwatch.process.periodic_task import PeriodicTask
from runtime.errors import OutOfReachError
from tests.support.polling import eventually


@contextmanager
def started(is_due: Callable[[float], bool], run: Callable[[], dict[str, int]]) -> Iterator[PeriodicTask]:
    """Run a task that is checked again and again."""
    task = PeriodicTask("reconcile", is_due=is_due, run=run, every_seconds=0.01, is_stopping=threading.Event())
    task.start()
    yield task
    task.stop()


def test_a_task_runs_when_it_is_due() -> None:
    """It does not run before, and ``is_due`` gets the interval."""
    answers = iter([False, True, False])
    asked: list[float] = []
    done: list[int] = []

    def is_due(every_seconds: float) -> bool:
        asked.append(every_seconds)
        return next(answers, False)

    with started(is_due, lambda: done.append(len(asked)) or {}) as task:
        eventually(lambda: len(asked) > 4)
        assert task.is_alive()

    assert not task.is_alive()
    assert done == [2]
    assert set(asked) == {0.01}


def test_a_failed_task_is_tried_again() -> None:
    """A database that is away, or any other error: the next attempt may succeed."""
    errors = iter([OutOfReachError("away"), ValueError("strange")])
    tried: list[int] = []

    def run() -> dict[str, int]:
        tried.append(1)
        for error in errors:
            raise error
        return {"rows": 1}

    with started(lambda _seconds: True, run) as task:
        eventually(lambda: len(tried) > 3)
        assert task.is_alive()
