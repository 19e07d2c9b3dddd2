import threading
from collections.abc import Callable, Iterator

import pytest

from meldwatch.process.handler_registration import HandlerRegistration
from runtime.errors import OutOfReachError, SettingsError
from tests.support.polling import eventually


class Scripted:
    """What makes the subscriptions: fails as it is told, and counts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = iter(errors)
        self.calls = 0
        self.done = threading.Event()

    def __call__(self) -> None:
        """Fail or do it."""
        self.calls += 1
        for error in self.errors:
            raise error
        self.done.set()


AWAY = OutOfReachError("The database does not answer.")


@pytest.fixture
def made() -> Iterator[Callable[..., HandlerRegistration]]:
    """Makes the part, which tries again at once; it is stopped at the end."""
    parts: list[HandlerRegistration] = []

    def make(enlist: Scripted) -> HandlerRegistration:
        parts.append(HandlerRegistration(enlist, retry_seconds=0.01))
        return parts[-1]

    yield make
    for part in parts:
        part.stop()


def test_they_are_made_before_the_next_part_starts(made: Callable[..., HandlerRegistration]) -> None:
    """Where the database answers; once."""
    enlist = Scripted()
    part = made(enlist)
    part.start()

    assert (enlist.calls, part.is_alive()) == (1, True)


def test_a_database_that_is_away_holds_no_worker_up(made: Callable[..., HandlerRegistration]) -> None:
    """They are made when it is back."""
    enlist = Scripted(AWAY, AWAY, AWAY)
    part = made(enlist)
    part.start()

    assert part.is_alive()
    assert enlist.done.wait(20)
    eventually(lambda: not part._thread.is_alive(), message="the end of the thread")
    assert (enlist.calls, part.is_alive()) == (4, True)


def test_what_cannot_be_made_ends_the_start(made: Callable[..., HandlerRegistration]) -> None:
    """The command says so, with exit code 2."""
    with pytest.raises(SettingsError):
        made(Scripted(SettingsError("a name"))).start()


@pytest.mark.parametrize("error", [SettingsError("a name"), RuntimeError("unforeseen")])
def test_what_cannot_be_made_later_ends_the_process(made: Callable[..., HandlerRegistration], error: Exception) -> None:
    """Its supervisor starts it anew, and then the start says why."""
    part = made(Scripted(AWAY, error))
    part.start()

    eventually(lambda: not part.is_alive(), message="the end of the part")
