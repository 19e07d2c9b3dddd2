from collections import Counter
from random import Random

import pytest

from simulator.activity.population import populate
from simulator.activity.random_activity import RandomActivity, arrivals
from simulator.world.world import World
from tests.simulator.fakes import Clock


def test_a_life_is_plausible(world: World) -> None:
    """A long life brings every kind of state and event, and groups of several sizes."""
    life = RandomActivity(world, Random(5))

    announcements = [one for _ in range(3_000) for one in life.step()]

    statuses = Counter(one.state.status for one in world.connections())
    sizes = {len(one.duplicate_ids) for one in world.connections()}
    assert {"ACTIVE", "PARTIALLY_ACTIVE", "RECONNECT_REQUIRED", "DEGRADED", "DELETED", "EXPIRED"} <= set(statuses)
    assert {0, 1, 2} <= sizes
    assert len({one.event_type for one in announcements}) >= 7


def test_the_same_seed_lives_the_same_life() -> None:
    """Two worlds with the same seeds hear the same announcements."""
    lives = [RandomActivity(World(clock=Clock(), random=Random(1)), Random(2)) for _ in range(2)]

    first, second = ([one.body for _ in range(300) for one in life.step()] for life in lives)

    assert first == second


def test_acts_arrive_at_their_rate() -> None:
    """In a hundred seconds at ten a second there are about a thousand acts; at no rate there are none."""
    random = Random(1)

    assert 900 < sum(arrivals(10, 0.1, random) for _ in range(1_000)) < 1_100
    assert arrivals(0, 100, random) == 0


@pytest.mark.parametrize("count", [0, 1, 500])
def test_a_population_has_its_size(world: World, count: int) -> None:
    """So many connections are there, in silence, most of them healthy and some in groups."""
    populate(world, count, Random(3))

    active = sum(one.state.status == "ACTIVE" for one in world.connections())
    assert (len(world), active >= count / 2) == (count, True)
    assert any(one.primary_id for one in world.connections()) == (count > 1)
