import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from simulator.errors import ImpossibleError, MalformedError
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import BREAKAGES, DELETED, EXPIRED, HEALTHY, INACTIVE, LOGIN_REQUIRED, OPEN, MeldState
from simulator.world.world import World
from tests.simulator.assertions import COMPLETED, HISTORY, STATUS, TRANSACTIONS, UPDATED, UPDATING, said
from tests.simulator.fakes import NOON, Clock


def test_a_started_connection_is_in_progress_and_without_an_institution(world: World) -> None:
    """What the widget has not been told yet is null on the wire."""
    connection = world.start(NewConnection(external_customer_id="c-1"))

    view = world.view(connection.id)

    assert (
        view["status"],
        view["statusReason"],
        view["institutionId"],
        view["successfullyAggregatedAt"],
    ) == ("IN_PROGRESS", None, None, None)


def test_completing_announces_the_completion_and_the_new_status(world: World) -> None:
    """COMPLETED and STATUS_CHANGE come in tandem, and the aggregation begins."""
    connection = world.start()

    announcements = world.complete(connection.id)

    assert [one.event_type for one in announcements] == [COMPLETED, STATUS, UPDATING]
    assert world.connection(connection.id).state == HEALTHY


def test_a_status_change_tells_both_states(world: World) -> None:
    """STATUS_CHANGE bears the state before and the state after."""
    connection = world.add()

    (announcement,) = world.damage(connection.id)

    payload = json.loads(announcement.body)["payload"]
    assert payload["connectionId"] == connection.id
    assert (payload["oldStatus"], payload["oldStatusReason"]) == ("ACTIVE", None)
    assert (payload["newStatus"], payload["newStatusReason"]) == ("RECONNECT_REQUIRED", "LOGIN_REQUIRED")


def test_the_first_aggregation_brings_the_history(world: World, clock: Clock) -> None:
    """Aggregating moves the time of aggregation; only the first one announces the history."""
    connection = world.start()
    world.complete(connection.id)
    clock.advance(minutes=1)

    first, second = world.aggregate(connection.id), world.aggregate(connection.id)

    assert [one.event_type for one in first] == [UPDATING, UPDATED, TRANSACTIONS, HISTORY]
    assert [one.event_type for one in second] == [UPDATING, UPDATED, TRANSACTIONS]
    assert world.connection(connection.id).aggregated_at == NOON + timedelta(minutes=1)


@pytest.mark.parametrize("state", BREAKAGES)
def test_whatever_breaks_can_be_repaired(world: World, state: MeldState) -> None:
    """A repair ends in health and announces COMPLETED beside the status change."""
    connection = world.add()
    world.damage(connection.id, state)

    announcements = world.repair(connection.id)

    assert [one.event_type for one in announcements] == [COMPLETED, STATUS, UPDATING]
    assert world.connection(connection.id).state == HEALTHY


def test_healing_announces_nothing_but_the_status(world: World) -> None:
    """A connection that heals by itself gets a STATUS_CHANGE alone."""
    connection = world.add(LOGIN_REQUIRED)

    assert [(STATUS, connection.id)] == said(world.heal(connection.id))


def test_new_accounts_are_announced_by_name(world: World) -> None:
    """ACTIVE with NEW_ACCOUNTS_AVAILABLE is a change of reason with an event of its own."""
    connection = world.add()

    announcements = world.change(connection.id, MeldState("ACTIVE", "NEW_ACCOUNTS_AVAILABLE"))

    assert [one.event_type for one in announcements] == ["BANK_LINKING_NEW_ACCOUNTS_AVAILABLE", STATUS]


def test_a_state_unknown_to_the_documentation_is_possible(world: World) -> None:
    """Statuses are open strings."""
    connection = world.add()

    world.change(connection.id, MeldState("HIBERNATING", "WINTER"))

    assert world.view(connection.id)["status"] == "HIBERNATING"


def test_connections_expire_after_four_hours(world: World, clock: Clock) -> None:
    """Only what is still in progress after four hours expires, in silence by default."""
    left, finished = world.start(), world.start()
    world.complete(finished.id)
    clock.advance(hours=4)
    fresh = world.start()

    assert world.expire_due() == []
    assert [world.connection(one.id).state for one in (left, finished, fresh)] == [EXPIRED, HEALTHY, OPEN]


IMPOSSIBLE: list[tuple[MeldState, Callable[[World, str], object]]] = [
    (HEALTHY, lambda world, one: world.complete(one)),
    (HEALTHY, lambda world, one: world.repair(one)),
    (HEALTHY, lambda world, one: world.heal(one)),
    (HEALTHY, lambda world, one: world.expire(one)),
    (HEALTHY, lambda world, one: world.damage(one, DELETED)),
    (HEALTHY, lambda world, one: world.change(one, INACTIVE)),
    (HEALTHY, lambda world, one: world.join(one, one)),
    (OPEN, lambda world, one: world.refresh(one)),
    (OPEN, lambda world, one: world.aggregate(one)),
    (LOGIN_REQUIRED, lambda world, one: world.refresh(one)),
    (LOGIN_REQUIRED, lambda world, one: world.aggregate(one)),
    (DELETED, lambda world, one: world.delete(one)),
    (DELETED, lambda world, one: world.change(one, HEALTHY)),
    (EXPIRED, lambda world, one: world.delete(one)),
]


@pytest.mark.parametrize(("state", "act"), IMPOSSIBLE)
def test_what_melds_rules_do_not_allow_is_refused(
    world: World, state: MeldState, act: Callable[[World, str], object]
) -> None:
    """An impossible act changes nothing."""
    connection = world.add(state)

    with pytest.raises(ImpossibleError):
        act(world, connection.id)

    assert connection == world.connection(connection.id)


def test_a_refresh_names_products_that_were_granted(world: World) -> None:
    """A product that was never granted is refused, a granted one is not."""
    connection = world.add()

    with pytest.raises(MalformedError):
        world.refresh(connection.id, ["IDENTIFIERS"])
    assert world.refresh(connection.id, ["BALANCES"])


def test_the_past_can_be_read(world: World, clock: Clock) -> None:
    """A view of some seconds ago shows what was true then."""
    connection = world.add()
    clock.advance(seconds=10)
    world.damage(connection.id)
    clock.advance(seconds=1)

    statuses = [world.view(connection.id, seconds_ago=seconds)["status"] for seconds in (0, 1, 2, 100)]

    assert statuses == ["RECONNECT_REQUIRED", "RECONNECT_REQUIRED", "ACTIVE", "ACTIVE"]


def test_an_id_is_given_once(world: World) -> None:
    """A chosen id is borne by one connection only."""
    world.add(HEALTHY, NewConnection(id="mine"))

    with pytest.raises(ImpossibleError):
        world.add(HEALTHY, NewConnection(id="mine"))
