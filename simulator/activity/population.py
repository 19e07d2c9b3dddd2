"""Initial population of the account, and creation of whole duplicate groups."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from simulator.errors import ImpossibleError
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import BROKEN_STATES, HEALTHY, IN_PROGRESS, MeldState

if TYPE_CHECKING:
    from random import Random

    from simulator.world.webhook_payloads import WebhookEvent
    from simulator.world.world import World

MAX_AGE = timedelta(days=400)
MAX_GROUP_SIZE = 4
GROUP_PROBABILITY = 0.1
BROKEN_PROBABILITY = 0.15


def populate(world: World, connections: int, random: Random) -> None:
    """Create connections without webhook events: most of them healthy, some broken, some in groups."""
    goal = len(world) + connections
    while len(world) < goal:
        size = min(_group_size(random), goal - len(world))
        state = random.choice(BROKEN_STATES) if random.random() < BROKEN_PROBABILITY else HEALTHY
        create_group(world, size, state, NewConnection(created_at=world.now() - random.random() * MAX_AGE))


def create_group(world: World, size: int, state: MeldState, details: NewConnection) -> list[str]:
    """Create a group without webhook events; a size of 1 creates a single connection.

    The newest member is the primary and in the given state.

    Returns:
        The ids of the members, oldest first.

    Raises:
        ImpossibleError: The state is IN_PROGRESS and the size is above 1.
    """
    if size == 1:
        return [world.add(state, details).id]
    _require_linked(state)
    members: list[str] = []
    for _ in range(size):
        connection = world.add(HEALTHY, details)
        if members:
            world.join(connection.id, members[0])
        members.append(connection.id)
        details = replace(details, external_customer_id=connection.external_customer_id)
    if state != HEALTHY:
        world.set_state(members[-1], state)
    return members


def connect_group(
    world: World, size: int, state: MeldState, details: NewConnection
) -> tuple[list[str], list[WebhookEvent]]:
    """Create a group as customers do, through the widget; return the ids and the webhook events."""
    if size > 1:
        _require_linked(state)
    members: list[str] = []
    events: list[WebhookEvent] = []
    for _ in range(size):
        connection = world.start(details)
        if state != IN_PROGRESS:
            events += world.complete(connection.id, duplicate_of=members[0] if members else None)
        members.append(connection.id)
        details = replace(details, external_customer_id=connection.external_customer_id)
    if state not in (HEALTHY, IN_PROGRESS):
        events += world.set_state(members[-1], state)
    return members, events


def _require_linked(state: MeldState) -> None:
    if state == IN_PROGRESS:
        raise ImpossibleError("a connection in progress cannot be in a group")


def _group_size(random: Random) -> int:
    return random.randint(2, MAX_GROUP_SIZE) if random.random() < GROUP_PROBABILITY else 1
