"""A life at random: what customers, banks and providers do to a Meld account all day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.world.new_connection import NewConnection
from simulator.world.permitted_actions import permits
from simulator.world.vocabulary import BREAKAGES, OPEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from simulator.world.connection import SimulatedConnection
    from simulator.world.webhook_payloads import Announcement
    from simulator.world.world import World

#: How often each act is chosen, in proportion. Aggregation is daily bread; few customers ever leave.
WEIGHTS = {
    "connect": 12,
    "complete": 16,
    "aggregate": 24,
    "break": 12,
    "heal": 8,
    "repair": 6,
    "refresh": 14,
    "delete": 4,
    "expire": 2,
}
#: An act looks for a fitting connection so many times, then lets the moment pass.
LOOKS = 40
#: How many customers link a bank that they have linked already.
RELINKING = 0.5


class RandomActivity:
    """Chooses acts; the same seed over the same world chooses the same ones."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random

    def step(self) -> list[Announcement]:
        """One act, and what Meld announces of it; nothing where no connection fits."""
        # Held for the whole step, so that what was found to be possible still is.
        with self._world.lock:
            act = self._random.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
            if act == "connect":
                self._world.start(self._newcomer())
                return []
            connection = self._find(act)
            return [] if connection is None else self._acts()[act](connection)

    def _acts(self) -> dict[str, Callable[[SimulatedConnection], list[Announcement]]]:
        world = self._world
        return {
            "complete": self._complete,
            "break": lambda one: world.damage(one.id, self._random.choice(BREAKAGES)),
            "aggregate": lambda one: world.aggregate(one.id),
            "heal": lambda one: world.heal(one.id),
            "repair": lambda one: world.repair(one.id),
            "refresh": lambda one: world.refresh(one.id),
            "delete": lambda one: world.delete(one.id),
            "expire": lambda one: world.expire(one.id),
        }

    def _find(self, act: str) -> SimulatedConnection | None:
        for _ in range(LOOKS):
            one = self._anyone()
            if one is not None and permits(act, one.state, self._world.habits):
                return one
        return None

    def _anyone(self) -> SimulatedConnection | None:
        size = len(self._world)
        return self._world.numbered(self._random.randint(1, size)) if size else None

    def _newcomer(self) -> NewConnection:
        known = self._anyone()
        again = known is not None and self._random.random() < RELINKING
        return NewConnection(external_customer_id=known.external_customer_id) if known and again else NewConnection()

    def _complete(self, connection: SimulatedConnection) -> list[Announcement]:
        siblings = self._world.of_customer(connection.customer_id)
        linked = [one for one in siblings if one.living and one.state != OPEN]
        twin = self._random.choice(linked).id if linked and self._random.random() < RELINKING else None
        return self._world.complete(connection.id, duplicate_of=twin)


def arrivals(rate: float, seconds: float, random: Random) -> int:
    """How many acts fall into so many seconds, where they come at random so many times a second."""
    count, passed = 0, random.expovariate(rate) if rate else seconds
    while passed < seconds:
        count += 1
        passed += random.expovariate(rate)
    return count
