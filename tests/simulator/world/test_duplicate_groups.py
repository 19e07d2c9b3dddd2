import pytest

from simulator.activity.population import create_group
from simulator.errors import ImpossibleError
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import HEALTHY, INACTIVE_DUPLICATE, LOGIN_REQUIRED
from simulator.world.world import World
from tests.simulator.assertions import COMPLETED, DELETION, STATUS, UPDATING, group, primaries, types_and_connections


def test_a_newcomer_with_the_same_login_becomes_primary(world: World) -> None:
    """Completing as a duplicate makes the new connection primary and the former primary an inactive duplicate."""
    first = world.add(HEALTHY, NewConnection(external_customer_id="c-1"))
    second = world.start(NewConnection(external_customer_id="c-1"))

    events = world.complete(second.id, duplicate_of=first.id)

    assert [
        (COMPLETED, second.id),
        (STATUS, second.id),
        (STATUS, first.id),
        (UPDATING, second.id),
    ] == types_and_connections(events)
    assert [second.id, second.id] == primaries(world, [first.id, second.id])
    assert (world.connection(first.id).state, world.connection(second.id).state) == (INACTIVE_DUPLICATE, HEALTHY)


def test_duplicates_are_listed_most_recently_aggregated_first(world: World) -> None:
    """The list of duplicates omits the connection itself and begins with the most recently aggregated."""
    a, b, c = group(world, 3)

    world.refresh(b)

    assert [[b, c], [c, a], [b, a]] == [world.view(one)["duplicateConnectionIds"] for one in (a, b, c)]


def test_a_refreshed_member_takes_over_the_state_of_the_primary(world: World) -> None:
    """The new primary takes over the broken state, and the former one becomes an inactive duplicate."""
    former, refreshed = group(world, 2, LOGIN_REQUIRED)[::-1]

    events = world.refresh(refreshed)

    assert [(STATUS, refreshed), (STATUS, former)] == types_and_connections(events)
    assert (world.connection(refreshed).state, world.connection(former).state) == (LOGIN_REQUIRED, INACTIVE_DUPLICATE)


def test_a_third_member_gets_no_webhook(world: World) -> None:
    """A switch between two members changes the third member's primary without a webhook about it."""
    refreshed, third, former = group(world, 3)

    events = world.refresh(refreshed)

    assert {refreshed, former} == {one.connection_id for one in events}
    assert [refreshed] * 3 == primaries(world, [refreshed, third, former])


def test_deleting_the_primary_promotes_the_next_most_recent(world: World) -> None:
    """The next most recently aggregated member takes over, with the deleted one's state."""
    oldest, next_one, primary = group(world, 3, LOGIN_REQUIRED)

    events = world.delete(primary)

    assert [(DELETION, primary), (STATUS, next_one)] == types_and_connections(events)
    assert [next_one, next_one, None] == primaries(world, [oldest, next_one, primary])
    assert world.connection(next_one).state == LOGIN_REQUIRED


def test_a_group_of_one_has_no_duplicates(world: World) -> None:
    """The last member's duplicate fields become null without a webhook."""
    inactive, survivor = group(world, 2)

    events = world.delete(inactive)

    view = world.view(survivor)
    assert [(DELETION, inactive)] == types_and_connections(events)
    assert (view["activeDuplicateConnectionId"], view["duplicateConnectionIds"]) == (None, None)


def test_a_lone_connection_joins_as_primary(world: World) -> None:
    """The joining connection becomes primary; only the former primary gets a webhook."""
    first = world.add(HEALTHY, NewConnection(external_customer_id="c-1"))
    second = world.add(HEALTHY, NewConnection(external_customer_id="c-1"))

    assert [(STATUS, first.id)] == types_and_connections(world.join(second.id, first.id))
    assert [second.id, second.id] == primaries(world, [first.id, second.id])


def test_the_last_member_may_join_another_group(world: World) -> None:
    """The last member of a group may leave it for another one."""
    details = NewConnection(external_customer_id="c-1")
    inactive, survivor = create_group(world, 2, HEALTHY, details)
    world.delete(inactive)
    other = world.add(HEALTHY, details)

    world.join(survivor, other.id)
    world.delete(other.id)

    assert world.connection(survivor).duplicate_ids == ()


def test_a_group_has_one_customer(world: World) -> None:
    """Connections of different customers cannot be duplicates."""
    with pytest.raises(ImpossibleError):
        world.join(world.add().id, world.add().id)
