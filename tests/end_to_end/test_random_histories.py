from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlmodel import select

from runtime.database import Database
from schemas.tables import AuditRow
from tests.end_to_end.manual_time import Clock, timeless
from tests.end_to_end.random_history import History
from tests.support.random_rounds import rounds
from workers.history.rebuild import Rebuild

SEEDS = {"sqlite": rounds(4), "postgres": rounds(1)}
"""The number of histories per kind of database; ``make soak`` and ``python -m bench histories`` run many more."""


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest) -> Iterator[tuple[str, Database, Clock]]:
    """An empty database of each kind, with manual time."""
    with timeless(request.getfixturevalue(f"{request.param}_url")) as (database, clock):
        yield request.param, database, clock


def test_the_mirror_is_correct_if_one_webhook_of_each_change_arrives(world: tuple[str, Database, Clock]) -> None:
    """Despite lost, late and repeated webhooks, stale, slow and failed reads and crashes, without a reconcile."""
    kind, database, clock = world
    wrong = {}
    for seed in range(SEEDS[kind]):
        with closing(History(database, clock, seed, is_notified=True)) as history:
            history.run()
            wrong[seed] = history.differences()

    assert not any(wrong.values()), wrong


def test_the_mirror_is_correct_after_one_reconcile(world: tuple[str, Database, Clock]) -> None:
    """Even if all webhooks of a change are lost, one reconcile corrects every field of the mirror."""
    kind, database, clock = world
    wrong = {}
    for seed in range(SEEDS[kind]):
        with closing(History(database, clock, seed, is_notified=False)) as history:
            history.run()
            history.reconcile()
            wrong[seed] = history.differences()

    assert not any(wrong.values()), wrong


@pytest.mark.parametrize("is_notified", [True, False], ids=["notified", "reconciled"])
def test_the_mirror_is_correct_despite_prunes(world: tuple[str, Database, Clock], *, is_notified: bool) -> None:
    """Prunes between and during reads change no result, and the projection still equals the mirror."""
    kind, database, clock = world
    wrong: dict[int, list[Any]] = {}
    pruned = 0
    for seed in range(max(SEEDS[kind] // 4, 1)):
        with closing(History(database, clock, seed, is_notified=is_notified, is_pruned=True)) as history:
            history.run()
            if not is_notified:
                history.reconcile()
            rebuild = Rebuild(database=database, clock=clock)
            wrong[seed] = [*history.differences(), *rebuild.check(lambda _count: None)]
        pruned += count_pruned_rows(database)

    assert not any(wrong.values()), wrong
    assert pruned > 0


def count_pruned_rows(database: Database) -> int:
    """Return the number of rows that the prunes of a history deleted."""
    with database.read() as session:
        return sum(sum(action.details.values()) for action in session.exec(select(AuditRow)).all())
