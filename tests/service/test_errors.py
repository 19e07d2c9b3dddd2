from collections.abc import Iterator

import pytest

from runtime.errors import MeldwatchError
from service import errors


def subclasses(base: type[MeldwatchError]) -> Iterator[type[MeldwatchError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from subclasses(kind)


@pytest.mark.parametrize("kind", [errors.RequestError, *subclasses(errors.RequestError)])
def test_the_docstring_lists_every_error(kind: type[MeldwatchError]) -> None:
    """The module's docstring shows the tree of errors."""
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("error", [errors.InvalidTokenError(), errors.ForbiddenError()])
def test_errors_of_access_have_a_default_message(error: MeldwatchError) -> None:
    """The message says what to send."""
    assert ". Send " in str(error)
