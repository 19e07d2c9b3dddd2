"""Random activity: the actions of customers, banks and providers on a Meld account, by weight, from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.world.new_connection import NewConnection
from simulator.world.permitted_actions import is_permitted
from simulator.world.vocabulary import BROKEN_STATES, IN_PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from simulator.world.connection import SimulatedConnection
    from simulator.world.webhook_payloads import WebhookEvent
    from simulator.world.world import World

#: Relative frequency of each action. Aggregations are the most frequent; few connections are deleted.
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
#: Random connections tried for an action before the step is skipped.
MAX_PICKS = 40
#: Probability that a customer links an institution that they have linked already.
RELINK_PROBABILITY = 0.5


class RandomActivity:
    """Chooses actions; the same seed on the same world chooses the same actions."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random

    def step(self) -> list[WebhookEvent]:
        """Carry out one action and return its webhook events; none if no connection permits it."""
        # The lock is held for the whole step, so that a permitted action stays permitted.
        with self._world.lock:
            action = self._random.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
            if action == "connect":
                self._world.start(self._new_connection())
                return []
            connection = self._find_permitted(action)
            return [] if connection is None else self._action_methods()[action](connection)

    def _action_methods(self) -> dict[str, Callable[[SimulatedConnection], list[WebhookEvent]]]:
        world = self._world
        return {
            "complete": self._complete,
            "break": lambda one: world.break_connection(one.id, self._random.choice(BROKEN_STATES)),
            "aggregate": lambda one: world.aggregate(one.id),
            "heal": lambda one: world.heal(one.id),
            "repair": lambda one: world.repair(one.id),
            "refresh": lambda one: world.refresh(one.id),
            "delete": lambda one: world.delete(one.id),
            "expire": lambda one: world.expire(one.id),
        }

    def _find_permitted(self, action: str) -> SimulatedConnection | None:
        for _ in range(MAX_PICKS):
            one = self._random_connection()
            if one is not None and is_permitted(action, one.state, self._world.quirks):
                return one
        return None

    def _random_connection(self) -> SimulatedConnection | None:
        size = len(self._world)
        return self._world.by_number(self._random.randint(1, size)) if size else None

    def _new_connection(self) -> NewConnection:
        known = self._random_connection()
        again = known is not None and self._random.random() < RELINK_PROBABILITY
        return NewConnection(external_customer_id=known.external_customer_id) if known and again else NewConnection()

    def _complete(self, connection: SimulatedConnection) -> list[WebhookEvent]:
        siblings = self._world.of_customer(connection.customer_id)
        linked = [one for one in siblings if one.is_alive and one.state != IN_PROGRESS]
        duplicate = self._random.choice(linked).id if linked and self._random.random() < RELINK_PROBABILITY else None
        return self._world.complete(connection.id, duplicate_of=duplicate)


def draw_action_count(rate: float, seconds: float, random: Random) -> int:
    """Draw how many actions of a Poisson process occur in a period.

    Args:
        rate: Actions a second.
        seconds: Length of the period.
        random: Source of randomness.
    """
    count, passed = 0, random.expovariate(rate) if rate else seconds
    while passed < seconds:
        count += 1
        passed += random.expovariate(rate)
    return count
