import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from simulator.errors import ImpossibleError, MalformedError
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import (
    BROKEN_STATES,
    DELETED,
    EXPIRED,
    HEALTHY,
    IN_PROGRESS,
    INACTIVE_DUPLICATE,
    LOGIN_REQUIRED,
    MeldState,
)
from simulator.world.world import World
from tests.simulator.assertions import (
    COMPLETED,
    HISTORY,
    STATUS,
    TRANSACTIONS,
    UPDATED,
    UPDATING,
    types_and_connections,
)
from tests.simulator.fakes import NOON, Clock


def test_a_started_connection_is_in_progress_and_without_an_institution(world: World) -> None:
    """Fields that the customer has not chosen yet are null."""
    connection = world.start(NewConnection(external_customer_id="c-1"))

    view = world.view(connection.id)

    assert (
        view["status"],
        view["statusReason"],
        view["institutionId"],
        view["successfullyAggregatedAt"],
    ) == ("IN_PROGRESS", None, None, None)


def test_completing_sends_the_completion_and_the_new_status(world: World) -> None:
    """COMPLETED and STATUS_CHANGE are sent together, and the aggregation begins."""
    connection = world.start()

    events = world.complete(connection.id)

    assert [one.event_type for one in events] == [COMPLETED, STATUS, UPDATING]
    assert world.connection(connection.id).state == HEALTHY


def test_a_status_change_contains_both_states(world: World) -> None:
    """STATUS_CHANGE contains the state before and after."""
    connection = world.add()

    (event,) = world.break_connection(connection.id)

    payload = json.loads(event.body)["payload"]
    assert payload["connectionId"] == connection.id
    assert (payload["oldStatus"], payload["oldStatusReason"]) == ("ACTIVE", None)
    assert (payload["newStatus"], payload["newStatusReason"]) == ("RECONNECT_REQUIRED", "LOGIN_REQUIRED")


def test_the_first_aggregation_brings_the_history(world: World, clock: Clock) -> None:
    """An aggregation updates its time; only the first one sends the history event."""
    connection = world.start()
    world.complete(connection.id)
    clock.advance(minutes=1)

    first, second = world.aggregate(connection.id), world.aggregate(connection.id)

    assert [one.event_type for one in first] == [UPDATING, UPDATED, TRANSACTIONS, HISTORY]
    assert [one.event_type for one in second] == [UPDATING, UPDATED, TRANSACTIONS]
    assert world.connection(connection.id).aggregated_at == NOON + timedelta(minutes=1)


@pytest.mark.parametrize("state", BROKEN_STATES)
def test_every_broken_state_can_be_repaired(world: World, state: MeldState) -> None:
    """A repair makes the connection healthy and sends COMPLETED in addition to STATUS_CHANGE."""
    connection = world.add()
    world.break_connection(connection.id, state)

    events = world.repair(connection.id)

    assert [one.event_type for one in events] == [COMPLETED, STATUS, UPDATING]
    assert world.connection(connection.id).state == HEALTHY


def test_healing_sends_only_the_status_change(world: World) -> None:
    """A connection that heals without the customer gets only a STATUS_CHANGE."""
    connection = world.add(LOGIN_REQUIRED)

    assert [(STATUS, connection.id)] == types_and_connections(world.heal(connection.id))


def test_new_accounts_have_their_own_event(world: World) -> None:
    """ACTIVE with NEW_ACCOUNTS_AVAILABLE is a change of reason with its own event."""
    connection = world.add()

    events = world.set_state(connection.id, MeldState("ACTIVE", "NEW_ACCOUNTS_AVAILABLE"))

    assert [one.event_type for one in events] == ["BANK_LINKING_NEW_ACCOUNTS_AVAILABLE", STATUS]


def test_a_state_unknown_to_the_documentation_is_possible(world: World) -> None:
    """Statuses are open strings."""
    connection = world.add()

    world.set_state(connection.id, MeldState("HIBERNATING", "WINTER"))

    assert world.view(connection.id)["status"] == "HIBERNATING"


def test_connections_expire_after_four_hours(world: World, clock: Clock) -> None:
    """Connections still in progress after four hours expire, by default without a webhook."""
    left, finished = world.start(), world.start()
    world.complete(finished.id)
    clock.advance(hours=4)
    fresh = world.start()

    assert world.expire_due() == []
    assert [world.connection(one.id).state for one in (left, finished, fresh)] == [EXPIRED, HEALTHY, IN_PROGRESS]


IMPOSSIBLE: list[tuple[MeldState, Callable[[World, str], object]]] = [
    (HEALTHY, lambda world, one: world.complete(one)),
    (HEALTHY, lambda world, one: world.repair(one)),
    (HEALTHY, lambda world, one: world.heal(one)),
    (HEALTHY, lambda world, one: world.expire(one)),
    (HEALTHY, lambda world, one: world.break_connection(one, DELETED)),
    (HEALTHY, lambda world, one: world.set_state(one, INACTIVE_DUPLICATE)),
    (HEALTHY, lambda world, one: world.join(one, one)),
    (IN_PROGRESS, lambda world, one: world.refresh(one)),
    (IN_PROGRESS, lambda world, one: world.aggregate(one)),
    (LOGIN_REQUIRED, lambda world, one: world.refresh(one)),
    (LOGIN_REQUIRED, lambda world, one: world.aggregate(one)),
    (DELETED, lambda world, one: world.delete(one)),
    (DELETED, lambda world, one: world.set_state(one, HEALTHY)),
    (EXPIRED, lambda world, one: world.delete(one)),
]


@pytest.mark.parametrize(("state", "action"), IMPOSSIBLE)
def test_actions_that_melds_rules_do_not_permit_are_refused(
    world: World, state: MeldState, action: Callable[[World, str], object]
) -> None:
    """An action that is not permitted changes nothing."""
    connection = world.add(state)

    with pytest.raises(ImpossibleError):
        action(world, connection.id)

    assert connection == world.connection(connection.id)


def test_a_refresh_requires_granted_products(world: World) -> None:
    """A product that was not granted is refused; a granted one is accepted."""
    connection = world.add()

    with pytest.raises(MalformedError):
        world.refresh(connection.id, ["IDENTIFIERS"])
    assert world.refresh(connection.id, ["BALANCES"])


def test_a_view_may_lag(world: World, clock: Clock) -> None:
    """A view of some seconds ago shows the state of then."""
    connection = world.add()
    clock.advance(seconds=10)
    world.break_connection(connection.id)
    clock.advance(seconds=1)

    statuses = [world.view(connection.id, seconds_ago=seconds)["status"] for seconds in (0, 1, 2, 100)]

    assert statuses == ["RECONNECT_REQUIRED", "RECONNECT_REQUIRED", "ACTIVE", "ACTIVE"]


def test_ids_are_unique(world: World) -> None:
    """A chosen id can be used only once."""
    world.add(HEALTHY, NewConnection(id="mine"))

    with pytest.raises(ImpossibleError):
        world.add(HEALTHY, NewConnection(id="mine"))
