"""Meld's rules for duplicate groups, as a pure function over the members.

The member that was connected, refreshed or aggregated last is the primary. The others are PARTIALLY_ACTIVE /
INACTIVE_DUPLICATE. An inactive member that becomes primary takes over the state of the primary before it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.world.vocabulary import HEALTHY, INACTIVE, MeldState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.world.connection import SimulatedConnection


def primary_of(members: Sequence[SimulatedConnection]) -> SimulatedConnection | None:
    """The living member that is maintained, None where nobody lives."""
    return max((member for member in members if member.living), key=_rank, default=None)


def settle(
    members: Sequence[SimulatedConnection], former: SimulatedConnection | None, *, deleted_kept: bool
) -> list[SimulatedConnection]:
    """The members as the rules want them after one has changed; former is the primary as it was before."""
    primary = primary_of(members)
    living = sum(member.living for member in members)
    ranked = sorted(members, key=_rank, reverse=True)
    listed = [member.id for member in ranked if member.living or deleted_kept] if living > 1 else []
    inherited = former.state if former else HEALTHY
    return [_settled(member, primary, listed, inherited) for member in members]


def _settled(
    member: SimulatedConnection, primary: SimulatedConnection | None, listed: list[str], inherited: MeldState
) -> SimulatedConnection:
    if primary is None or not member.living:
        return replace(member, primary_id=None, duplicate_ids=())
    return replace(
        member,
        state=_state(member, primary, inherited),
        primary_id=primary.id if listed else None,
        duplicate_ids=tuple(listed_id for listed_id in listed if listed_id != member.id),
    )


def _state(member: SimulatedConnection, primary: SimulatedConnection, inherited: MeldState) -> MeldState:
    if member.id != primary.id:
        return INACTIVE
    return inherited if member.state == INACTIVE else member.state


def _rank(member: SimulatedConnection) -> int:
    return member.rank
