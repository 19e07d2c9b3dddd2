from collections.abc import Iterator
from contextlib import closing

import pytest

from runtime.database import Database
from tests.flow.history import History
from tests.flow.timeless import Clock, timeless

SEEDS = {"sqlite": 24, "postgres": 8}
"""How many histories of each kind; ``python -m bench histories`` lives through a thousand."""


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest) -> Iterator[tuple[str, Database, Clock]]:
    """A fresh database whose time is moved by hand, of each kind."""
    with timeless(request.getfixturevalue(f"{request.param}_url")) as (database, clock):
        yield request.param, database, clock


def test_the_mirror_is_right_where_one_webhook_of_each_change_arrives(world: tuple[str, Database, Clock]) -> None:
    """Whatever is lost, late, doubled, stale, slow, refused or killed: without a reconcile every state is the truth."""
    kind, database, clock = world
    wrong = {}
    for seed in range(SEEDS[kind]):
        with closing(History(database, clock, seed, is_heard=True)) as history:
            history.run()
            wrong[seed] = history.differences()

    assert not any(wrong.values()), wrong


def test_the_mirror_is_right_after_one_reconcile(world: tuple[str, Database, Clock]) -> None:
    """Where all webhooks of a change may be lost, a reconcile makes the mirror the truth in every detail."""
    kind, database, clock = world
    wrong = {}
    for seed in range(SEEDS[kind]):
        with closing(History(database, clock, seed, is_heard=False)) as history:
            history.run()
            history.reconcile()
            wrong[seed] = history.differences()

    assert not any(wrong.values()), wrong
