from collections.abc import Iterator

import pytest

from runtime.errors import MeldwatchError
from service import errors


def kinds(base: type[MeldwatchError]) -> Iterator[type[MeldwatchError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


@pytest.mark.parametrize("kind", [errors.RequestError, *kinds(errors.RequestError)])
def test_the_tree_shows_every_error(kind: type[MeldwatchError]) -> None:
    """Who reads the module's first lines knows them all."""
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("error", [errors.InvalidTokenError(), errors.ForbiddenError()])
def test_errors_of_access_say_what_to_do(error: MeldwatchError) -> None:
    """They need no more words than their own."""
    assert ". Send " in str(error)
