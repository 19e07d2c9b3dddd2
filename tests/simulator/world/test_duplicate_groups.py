import pytest

from simulator.activity.population import found_group
from simulator.errors import ImpossibleError
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import HEALTHY, INACTIVE, LOGIN_REQUIRED
from simulator.world.world import World
from tests.simulator.assertions import COMPLETED, DELETION, STATUS, UPDATING, group, primaries, said


def test_a_newcomer_with_the_same_login_becomes_primary(world: World) -> None:
    """Completing as a duplicate makes the newcomer primary and the former one an inactive duplicate."""
    first = world.add(HEALTHY, NewConnection(external_customer_id="c-1"))
    second = world.start(NewConnection(external_customer_id="c-1"))

    announcements = world.complete(second.id, duplicate_of=first.id)

    assert [(COMPLETED, second.id), (STATUS, second.id), (STATUS, first.id), (UPDATING, second.id)] == said(
        announcements
    )
    assert [second.id, second.id] == primaries(world, [first.id, second.id])
    assert (world.connection(first.id).state, world.connection(second.id).state) == (INACTIVE, HEALTHY)


def test_duplicates_are_listed_most_recently_aggregated_first(world: World) -> None:
    """The list of duplicates leaves out the connection itself and begins with the newest."""
    a, b, c = group(world, 3)

    world.refresh(b)

    assert [[b, c], [c, a], [b, a]] == [world.view(one)["duplicateConnectionIds"] for one in (a, b, c)]


def test_a_refreshed_member_takes_over_the_state_of_the_primary(world: World) -> None:
    """The primary moves with its broken state, and the former one becomes an inactive duplicate."""
    former, refreshed = group(world, 2, LOGIN_REQUIRED)[::-1]

    announcements = world.refresh(refreshed)

    assert [(STATUS, refreshed), (STATUS, former)] == said(announcements)
    assert (world.connection(refreshed).state, world.connection(former).state) == (LOGIN_REQUIRED, INACTIVE)


def test_a_third_member_is_silent(world: World) -> None:
    """A switch between two members changes the primary of the third without any announcement about it."""
    refreshed, third, former = group(world, 3)

    announcements = world.refresh(refreshed)

    assert {refreshed, former} == {one.connection_id for one in announcements}
    assert [refreshed] * 3 == primaries(world, [refreshed, third, former])


def test_deleting_the_primary_promotes_the_next_most_recent(world: World) -> None:
    """The next most recently aggregated member takes over, with the state that the deleted one had."""
    oldest, next_one, primary = group(world, 3, LOGIN_REQUIRED)

    announcements = world.delete(primary)

    assert [(DELETION, primary), (STATUS, next_one)] == said(announcements)
    assert [next_one, next_one, None] == primaries(world, [oldest, next_one, primary])
    assert world.connection(next_one).state == LOGIN_REQUIRED


def test_a_group_that_shrinks_to_one_is_none(world: World) -> None:
    """The survivor's duplicate fields are null, in silence."""
    inactive, survivor = group(world, 2)

    announcements = world.delete(inactive)

    view = world.view(survivor)
    assert [(DELETION, inactive)] == said(announcements)
    assert (view["activeDuplicateConnectionId"], view["duplicateConnectionIds"]) == (None, None)


def test_a_lone_connection_joins_as_primary(world: World) -> None:
    """Joining puts the newcomer first; the former primary is announced."""
    first = world.add(HEALTHY, NewConnection(external_customer_id="c-1"))
    second = world.add(HEALTHY, NewConnection(external_customer_id="c-1"))

    assert [(STATUS, first.id)] == said(world.join(second.id, first.id))
    assert [second.id, second.id] == primaries(world, [first.id, second.id])


def test_a_survivor_may_join_another_group(world: World) -> None:
    """A connection whose own group has died out leaves it behind."""
    opening = NewConnection(external_customer_id="c-1")
    inactive, survivor = found_group(world, 2, HEALTHY, opening)
    world.delete(inactive)
    other = world.add(HEALTHY, opening)

    world.join(survivor, other.id)
    world.delete(other.id)

    assert world.connection(survivor).duplicate_ids == ()


def test_a_group_has_one_customer(world: World) -> None:
    """Connections of different customers cannot be duplicates."""
    with pytest.raises(ImpossibleError):
        world.join(world.add().id, world.add().id)
