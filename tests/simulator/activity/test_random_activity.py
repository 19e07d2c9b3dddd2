from collections import Counter
from random import Random

import pytest

from simulator.activity.population import populate
from simulator.activity.random_activity import RandomActivity, draw_action_count
from simulator.world.world import World
from tests.simulator.fakes import Clock


def test_random_activity_covers_all_states_and_events(world: World) -> None:
    """Many actions lead to every kind of state and event, and to groups of several sizes."""
    activity = RandomActivity(world, Random(5))

    events = [one for _ in range(3_000) for one in activity.step()]

    statuses = Counter(one.state.status for one in world.connections())
    sizes = {len(one.duplicate_ids) for one in world.connections()}
    assert {"ACTIVE", "PARTIALLY_ACTIVE", "RECONNECT_REQUIRED", "DEGRADED", "DELETED", "EXPIRED"} <= set(statuses)
    assert {0, 1, 2} <= sizes
    assert len({one.event_type for one in events}) >= 7


def test_the_same_seed_gives_the_same_activity() -> None:
    """Two worlds with the same seeds yield the same webhook events."""
    activities = [RandomActivity(World(clock=Clock(), random=Random(1)), Random(2)) for _ in range(2)]

    first, second = ([one.body for _ in range(300) for one in activity.step()] for activity in activities)

    assert first == second


def test_actions_occur_at_their_rate() -> None:
    """100 seconds at a rate of 10 have about 1000 actions; a rate of 0 has none."""
    random = Random(1)

    assert 900 < sum(draw_action_count(10, 0.1, random) for _ in range(1_000)) < 1_100
    assert draw_action_count(0, 100, random) == 0


@pytest.mark.parametrize("count", [0, 1, 500])
def test_a_population_has_its_size(world: World, count: int) -> None:
    """A population has exactly the given size; most connections are healthy, some are in groups."""
    populate(world, count, Random(3))

    active = sum(one.state.status == "ACTIVE" for one in world.connections())
    assert (len(world), active >= count / 2) == (count, True)
    assert any(one.primary_id for one in world.connections()) == (count > 1)
