import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meldwatch.process.periodic_task import PeriodicTask
from runtime.errors import OutOfReachError
from tests.support.polling import eventually


@contextmanager
def started(is_due: Callable[[float], bool], run: Callable[[], dict[str, int]]) -> Iterator[PeriodicTask]:
    """Run a chore that is looked at again and again."""
    chore = PeriodicTask("reconcile", is_due=is_due, run=run, every_seconds=0.01, is_stopping=threading.Event())
    chore.start()
    yield chore
    chore.stop()


def test_it_is_done_when_it_is_due() -> None:
    """And not before; it is asked with the time that it should be done in."""
    answers = iter([False, True, False])
    asked: list[float] = []
    done: list[int] = []

    def is_due(every_seconds: float) -> bool:
        asked.append(every_seconds)
        return next(answers, False)

    with started(is_due, lambda: done.append(len(asked)) or {}) as chore:
        eventually(lambda: len(asked) > 4)
        assert chore.is_alive()

    assert not chore.is_alive()
    assert done == [2]
    assert set(asked) == {0.01}


def test_what_goes_wrong_is_tried_again() -> None:
    """A database that is away, or anything else: the next look may do better."""
    errors = iter([OutOfReachError("away"), ValueError("strange")])
    tried: list[int] = []

    def run() -> dict[str, int]:
        tried.append(1)
        for error in errors:
            raise error
        return {"rows": 1}

    with started(lambda _seconds: True, run) as chore:
        eventually(lambda: len(tried) > 3)
        assert chore.is_alive()
