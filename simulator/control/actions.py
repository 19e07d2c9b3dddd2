"""The acts by their names on the wire: what each is told, and what it does to the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.request_bodies import ActWish, BreakWish, CompleteWish, JoinWish, RefreshActWish, StateWish
from simulator.world.vocabulary import MeldState

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.world.webhook_payloads import Announcement
    from simulator.world.world import World

    # Each act reads the fields of its own kind of wish, which stands beside it in the table.
    Act = Callable[[World, str, Any], list[Announcement]]

ACTS: dict[str, tuple[type[ActWish], Act]] = {
    "complete": (CompleteWish, lambda world, one, wish: world.complete(one, duplicate_of=wish.duplicate_of)),
    "join": (JoinWish, lambda world, one, wish: world.join(one, wish.other)),
    "break": (BreakWish, lambda world, one, wish: world.damage(one, wish.state())),
    "state": (StateWish, lambda world, one, wish: world.change(one, MeldState(wish.status, wish.reason))),
    "heal": (ActWish, lambda world, one, _: world.heal(one)),
    "repair": (ActWish, lambda world, one, _: world.repair(one)),
    "refresh": (RefreshActWish, lambda world, one, wish: world.refresh(one, wish.products)),
    "aggregate": (ActWish, lambda world, one, _: world.aggregate(one)),
    "delete": (ActWish, lambda world, one, _: world.delete(one)),
    "expire": (ActWish, lambda world, one, _: world.expire(one)),
}
