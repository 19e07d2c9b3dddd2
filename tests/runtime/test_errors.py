import inspect

from runtime import errors


def test_every_error_is_in_the_docstring() -> None:
    """The tree in the docstring names each exception of the module, and each has the common base."""
    classes = [kind for kind in vars(errors).values() if inspect.isclass(kind)]

    assert all(issubclass(kind, errors.MeldwatchError) for kind in classes)
    assert [kind.__name__ for kind in classes if kind.__name__ not in (errors.__doc__ or "")] == []
