"""Meld's rules for duplicate groups, as a pure function of the members.

The member that was connected, refreshed or aggregated last is the primary. The others are PARTIALLY_ACTIVE /
INACTIVE_DUPLICATE. An inactive member that becomes primary takes over the state of the former primary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.world.vocabulary import HEALTHY, INACTIVE_DUPLICATE, MeldState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.world.connection import SimulatedConnection


def primary_of(members: Sequence[SimulatedConnection]) -> SimulatedConnection | None:
    """Return the primary: the live member with the highest rank; None if no member is alive."""
    return max((member for member in members if member.is_alive), key=_rank, default=None)


def update_group(
    members: Sequence[SimulatedConnection], former: SimulatedConnection | None, *, deleted_kept: bool
) -> list[SimulatedConnection]:
    """Apply the rules to a group after one of its members changed.

    Args:
        members: All members, including the changed one.
        former: The primary before the change, in its state of then.
        deleted_kept: The quirk that keeps deleted members in the lists of duplicates.

    Returns:
        The updated members, in the same order.
    """
    primary = primary_of(members)
    live_count = sum(member.is_alive for member in members)
    ranked = sorted(members, key=_rank, reverse=True)
    listed = [member.id for member in ranked if member.is_alive or deleted_kept] if live_count > 1 else []
    inherited = former.state if former else HEALTHY
    return [_update_member(member, primary, listed, inherited) for member in members]


def _update_member(
    member: SimulatedConnection, primary: SimulatedConnection | None, listed: list[str], inherited: MeldState
) -> SimulatedConnection:
    if primary is None or not member.is_alive:
        return replace(member, primary_id=None, duplicate_ids=())
    return replace(
        member,
        state=_state(member, primary, inherited),
        primary_id=primary.id if listed else None,
        duplicate_ids=tuple(listed_id for listed_id in listed if listed_id != member.id),
    )


def _state(member: SimulatedConnection, primary: SimulatedConnection, inherited: MeldState) -> MeldState:
    if member.id != primary.id:
        return INACTIVE_DUPLICATE
    return inherited if member.state == INACTIVE_DUPLICATE else member.state


def _rank(member: SimulatedConnection) -> int:
    return member.rank
