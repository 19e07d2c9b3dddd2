"""Many connections at once: those that have long been there, and those that arrive."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from simulator.errors import ImpossibleError
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import BREAKAGES, HEALTHY, OPEN, MeldState

if TYPE_CHECKING:
    from random import Random

    from simulator.world.webhook_payloads import Announcement
    from simulator.world.world import World

GREATEST_AGE = timedelta(days=400)
GREATEST_GROUP = 4
GROUPED = 0.1
BROKEN = 0.15


def populate(world: World, connections: int, random: Random) -> None:
    """So many connections in silence: most of them healthy, some broken, some in groups."""
    goal = len(world) + connections
    while len(world) < goal:
        size = min(_group_size(random), goal - len(world))
        state = random.choice(BREAKAGES) if random.random() < BROKEN else HEALTHY
        found_group(world, size, state, NewConnection(created_at=world.now() - random.random() * GREATEST_AGE))


def found_group(world: World, size: int, state: MeldState, opening: NewConnection) -> list[str]:
    """A group of that size in silence, the newest member its primary and in that state; one alone is no group."""
    if size == 1:
        return [world.add(state, opening).id]
    _insist_on_linked(state)
    members: list[str] = []
    for _ in range(size):
        newcomer = world.add(HEALTHY, opening)
        if members:
            world.join(newcomer.id, members[0])
        members.append(newcomer.id)
        opening = replace(opening, external_customer_id=newcomer.external_customer_id)
    if state != HEALTHY:
        world.change(members[-1], state)
    return members


def link_group(
    world: World, size: int, state: MeldState, opening: NewConnection
) -> tuple[list[str], list[Announcement]]:
    """The same, but everyone comes through the widget, and Meld announces it."""
    if size > 1:
        _insist_on_linked(state)
    members: list[str] = []
    announcements: list[Announcement] = []
    for _ in range(size):
        newcomer = world.start(opening)
        if state != OPEN:
            announcements += world.complete(newcomer.id, duplicate_of=members[0] if members else None)
        members.append(newcomer.id)
        opening = replace(opening, external_customer_id=newcomer.external_customer_id)
    if state not in (HEALTHY, OPEN):
        announcements += world.change(members[-1], state)
    return members, announcements


def _insist_on_linked(state: MeldState) -> None:
    if state == OPEN:
        raise ImpossibleError("a connection in progress is in no group yet")


def _group_size(random: Random) -> int:
    return random.randint(2, GREATEST_GROUP) if random.random() < GROUPED else 1
