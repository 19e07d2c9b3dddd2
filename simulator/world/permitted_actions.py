"""Which act is possible in which state; Meld's table of statuses, read as rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.errors import ImpossibleError
from simulator.world.vocabulary import HEALTHY, INACTIVE, OPEN, TERMINAL, UNREACHABLE, MeldState

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.world.quirks import Quirks

NEVER_REFRESHABLE = TERMINAL | {OPEN.status}


def _living(state: MeldState) -> bool:
    return state.status not in TERMINAL


def _linked(state: MeldState) -> bool:
    return _living(state) and state != OPEN


ALLOWED: dict[str, Callable[[MeldState], bool]] = {
    "complete": lambda state: state == OPEN,
    "expire": lambda state: state == OPEN,
    "repair": lambda state: _linked(state) and state != HEALTHY,
    "heal": lambda state: _linked(state) and state not in (HEALTHY, INACTIVE),
    "break": lambda state: _linked(state) and state != INACTIVE,
    "change": lambda state: _living(state) and state != INACTIVE,
    "refresh": lambda state: state.status not in NEVER_REFRESHABLE,
    "aggregate": lambda state: state.status not in UNREACHABLE,
    "join": _linked,
    "delete": _living,
}


def permits(act: str, state: MeldState, habits: Quirks) -> bool:
    """Whether the act is possible for a connection in that state."""
    if act == "refresh" and state.status == "RECONNECT_REQUIRED":
        return habits.reconnect_refreshable
    return ALLOWED[act](state)


def insist(act: str, state: MeldState, habits: Quirks) -> None:
    """Nothing, or ImpossibleError where the act is not possible."""
    if not permits(act, state, habits):
        raise ImpossibleError(f"{act} is impossible for a connection that is {state}")
