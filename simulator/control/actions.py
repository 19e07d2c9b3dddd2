"""The actions of the control API by name: the request body of each, and the method of the world it calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.request_bodies import (
    ActionRequest,
    BreakRequest,
    CompleteRequest,
    JoinGroupRequest,
    RefreshActionRequest,
    SetStateRequest,
)
from simulator.world.vocabulary import MeldState

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.world.webhook_payloads import WebhookEvent
    from simulator.world.world import World

    # World, connection id, request body. The body's type stands beside the action in the table, hence Any.
    Action = Callable[[World, str, Any], list[WebhookEvent]]

ACTIONS: dict[str, tuple[type[ActionRequest], Action]] = {
    "complete": (CompleteRequest, lambda world, id_, body: world.complete(id_, duplicate_of=body.duplicate_of)),
    "join": (JoinGroupRequest, lambda world, id_, body: world.join(id_, body.other)),
    "break": (BreakRequest, lambda world, id_, body: world.break_connection(id_, body.state())),
    "state": (SetStateRequest, lambda world, id_, body: world.set_state(id_, MeldState(body.status, body.reason))),
    "heal": (ActionRequest, lambda world, id_, _: world.heal(id_)),
    "repair": (ActionRequest, lambda world, id_, _: world.repair(id_)),
    "refresh": (RefreshActionRequest, lambda world, id_, body: world.refresh(id_, body.products)),
    "aggregate": (ActionRequest, lambda world, id_, _: world.aggregate(id_)),
    "delete": (ActionRequest, lambda world, id_, _: world.delete(id_)),
    "expire": (ActionRequest, lambda world, id_, _: world.expire(id_)),
}
