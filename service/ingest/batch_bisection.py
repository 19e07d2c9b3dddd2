"""Bisection of a failed batch: finds the items that the database rejects, so that all others are stored."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from runtime.errors import OutOfReachError

T = TypeVar("T")


def write_bisecting(batch: Sequence[T], write: Callable[[Sequence[T]], object]) -> list[tuple[T, Exception]]:
    """Write a batch; if that fails, write its halves, and so on.

    Args:
        batch: The items.
        write: Writes some of them in one transaction.

    Returns:
        The items that cannot be written, each with the error of its own transaction.

    Raises:
        OutOfReachError: The database does not answer. It says nothing about the items, so the batch is not split.
    """
    try:
        write(batch)
    except OutOfReachError:
        raise
    except Exception as error:  # noqa: BLE001 - any error of one item must not affect the others
        if len(batch) == 1:
            return [(batch[0], error)]
        middle = len(batch) // 2
        return write_bisecting(batch[:middle], write) + write_bisecting(batch[middle:], write)
    return []
