import threading
from collections.abc import Callable, Iterator

import pytest

from meldwatch.process.handler_registration import HandlerRegistration
from runtime.errors import OutOfReachError, SettingsError
from tests.support.polling import eventually


class ScriptedRegistration:
    """Raises the given errors, then succeeds; counts the calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = iter(errors)
        self.calls = 0
        self.done = threading.Event()

    def __call__(self) -> None:
        """Raise the next error, or succeed."""
        self.calls += 1
        for error in self.errors:
            raise error
        self.done.set()


OUTAGE = OutOfReachError("The database does not answer.")


@pytest.fixture
def make_registration() -> Iterator[Callable[..., HandlerRegistration]]:
    """Return a factory of registrations with a short retry interval; they are stopped at the end."""
    registrations: list[HandlerRegistration] = []

    def make(register: ScriptedRegistration) -> HandlerRegistration:
        registrations.append(HandlerRegistration(register, retry_seconds=0.01))
        return registrations[-1]

    yield make
    for registration in registrations:
        registration.stop()


def test_subscriptions_are_created_at_the_start(make_registration: Callable[..., HandlerRegistration]) -> None:
    """Once, before the next component starts."""
    register = ScriptedRegistration()
    registration = make_registration(register)
    registration.start()

    assert (register.calls, registration.is_alive()) == (1, True)


def test_an_outage_does_not_delay_the_start(make_registration: Callable[..., HandlerRegistration]) -> None:
    """The subscriptions are created when the database answers again."""
    register = ScriptedRegistration(OUTAGE, OUTAGE, OUTAGE)
    registration = make_registration(register)
    registration.start()

    assert registration.is_alive()
    assert register.done.wait(20)
    eventually(lambda: not registration._thread.is_alive(), message="the end of the thread")
    assert (register.calls, registration.is_alive()) == (4, True)


def test_an_invalid_setting_ends_the_start(make_registration: Callable[..., HandlerRegistration]) -> None:
    """The command prints the error, with exit code 2."""
    with pytest.raises(SettingsError):
        make_registration(ScriptedRegistration(SettingsError("a name"))).start()


@pytest.mark.parametrize("error", [SettingsError("a name"), RuntimeError("unforeseen")])
def test_a_later_error_ends_the_process(
    make_registration: Callable[..., HandlerRegistration], error: Exception
) -> None:
    """Its supervisor restarts it, and the restart reports the error."""
    registration = make_registration(ScriptedRegistration(OUTAGE, error))
    registration.start()

    eventually(lambda: not registration.is_alive(), message="the end of the registration")
