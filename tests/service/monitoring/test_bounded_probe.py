import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from service.monitoring.bounded_probe import BoundedProbe
from tests.service.fakes import HandClock
from tests.support.polling import eventually


class Question:
    """A question that counts how often it was asked, and is answered when it may be."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self) -> int:
        """Answer how often it was asked."""
        self.asked += 1
        assert self.may_answer.wait(10)
        return self.asked


def answered(probe: BoundedProbe[int], seconds: float = 5) -> int | None:
    """Ask in an event loop of its own."""
    return asyncio.run(probe.answer(seconds))


def probe_of(ask: Callable[[], int], clock: HandClock) -> BoundedProbe[int]:
    """Return a probe whose answers last two seconds."""
    return BoundedProbe(ask, clock=clock, fresh=timedelta(seconds=2))


def test_an_answer_is_remembered_for_a_while() -> None:
    """Whoever asks soon after is given the same; then the question is asked anew."""
    clock, question = HandClock(), Question()
    probe = probe_of(question, clock)

    answers = [answered(probe)]
    for seconds in (1.9, 0.1, 1.9):
        clock.move(seconds)
        answers.append(answered(probe))

    assert answers == [1, 1, 2, 2]


def test_a_clock_that_is_set_back_keeps_no_answer_alive() -> None:
    """An answer from the future is asked anew."""
    clock, question = HandClock(), Question()
    probe = probe_of(question, clock)
    answered(probe)

    clock.move(-3600)

    assert answered(probe) == 2


def test_who_waits_in_vain_goes_in_time() -> None:
    """A question that hangs holds nobody, and is not asked again while it hangs; when it is answered, that counts."""
    clock, question = HandClock(), Question()
    probe = probe_of(question, clock)
    question.may_answer.clear()

    in_vain = [answered(probe, 0.05) for _ in range(3)]
    clock.move(1)
    question.may_answer.set()

    assert (in_vain, answered(probe), question.asked) == ([None, None, None], 1, 1)


def test_many_who_ask_at_once_share_an_answer() -> None:
    """One thread is at it, however many wait."""
    question = Question()
    probe = probe_of(question, HandClock())

    async def scene() -> list[int | None]:
        return await asyncio.gather(*(probe.answer(5) for _ in range(100)))

    assert (asyncio.run(scene()), question.asked) == ([1] * 100, 1)


def test_what_is_raised_is_raised_to_who_asked() -> None:
    """And the question is asked again later."""
    clock, calls = HandClock(), iter([ZeroDivisionError("x"), None])

    def ask() -> int:
        if (error := next(calls)) is not None:
            raise error
        return 1

    probe = probe_of(ask, clock)
    with pytest.raises(ZeroDivisionError):
        answered(probe)
    clock.move(2)

    assert answered(probe) == 1


def test_no_thread_is_left() -> None:
    """The thread ends with its answer."""
    answered(probe_of(Question(), HandClock()))

    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "probe"])
