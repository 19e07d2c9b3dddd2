"""Which actions are permitted in which state, from Meld's table of statuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.errors import ImpossibleError
from simulator.world.vocabulary import HEALTHY, IN_PROGRESS, INACTIVE_DUPLICATE, NOT_AGGREGATED, TERMINAL, MeldState

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.world.quirks import Quirks

NOT_REFRESHABLE = TERMINAL | {IN_PROGRESS.status}


def _is_alive(state: MeldState) -> bool:
    return state.status not in TERMINAL


def _is_linked(state: MeldState) -> bool:
    return _is_alive(state) and state != IN_PROGRESS


PERMITTED: dict[str, Callable[[MeldState], bool]] = {
    "complete": lambda state: state == IN_PROGRESS,
    "expire": lambda state: state == IN_PROGRESS,
    "repair": lambda state: _is_linked(state) and state != HEALTHY,
    "heal": lambda state: _is_linked(state) and state not in (HEALTHY, INACTIVE_DUPLICATE),
    "break": lambda state: _is_linked(state) and state != INACTIVE_DUPLICATE,
    "state": lambda state: _is_alive(state) and state != INACTIVE_DUPLICATE,
    "refresh": lambda state: state.status not in NOT_REFRESHABLE,
    "aggregate": lambda state: state.status not in NOT_AGGREGATED,
    "join": _is_linked,
    "delete": _is_alive,
}


def is_permitted(action: str, state: MeldState, quirks: Quirks) -> bool:
    """Return whether the action is permitted for a connection in this state."""
    if action == "refresh" and state.status == "RECONNECT_REQUIRED":
        return quirks.reconnect_refreshable
    return PERMITTED[action](state)


def require_permitted(action: str, state: MeldState, quirks: Quirks) -> None:
    """Check that the action is permitted in this state.

    Raises:
        ImpossibleError: It is not.
    """
    if not is_permitted(action, state, quirks):
        raise ImpossibleError(f"{action} is impossible for a connection that is {state}")
