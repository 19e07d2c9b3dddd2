import inspect

from runtime import errors


def test_every_error_is_drawn_in_the_tree() -> None:
    """The module's picture names each of its errors, and each is one that a person can act on."""
    classes = [kind for kind in vars(errors).values() if inspect.isclass(kind)]

    assert all(issubclass(kind, errors.MeldwatchError) for kind in classes)
    assert [kind.__name__ for kind in classes if kind.__name__ not in (errors.__doc__ or "")] == []
