from collections.abc import Sequence

import pytest

from runtime.errors import OutOfReachError
from service.ingest.batch_bisection import write_bisecting


@pytest.mark.parametrize("bad", [set(), {0}, {7}, {3, 4}, set(range(8))])
def test_only_bad_items_fail(bad: set[int]) -> None:
    """Each of them with its own error; all others are written once, in order."""
    written: list[int] = []

    def write(batch: Sequence[int]) -> None:
        if found := bad & set(batch):
            raise ValueError(min(found))
        written.extend(batch)

    failed = write_bisecting(range(8), write)

    assert {item: error.args for item, error in failed} == {item: (item,) for item in bad}
    assert written == [item for item in range(8) if item not in bad]


def test_an_unreachable_database_is_no_reason_to_split() -> None:
    """It says nothing about the items."""
    sizes: list[int] = []

    def write(batch: Sequence[int]) -> None:
        sizes.append(len(batch))
        raise OutOfReachError("The database does not answer.")

    with pytest.raises(OutOfReachError):
        write_bisecting(range(8), write)
    assert sizes == [8]
