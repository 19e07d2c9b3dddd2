"""What follows from an act: the connection turns, its group settles, and Meld announces it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.errors import ImpossibleError
from simulator.world.duplicate_groups import primary_of, settle
from simulator.world.vocabulary import (
    COMPLETED_EVENT,
    DELETED,
    DELETED_EVENT,
    HEALTHY,
    INACTIVE,
    NEW_ACCOUNTS,
    NEW_ACCOUNTS_EVENT,
    OPEN,
    UNREACHABLE,
    UPDATING_EVENT,
    MeldState,
)
from simulator.world.webhook_payloads import Announcement, Change, PayloadComposer, closing_events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from simulator.world.connection import SimulatedConnection
    from simulator.world.new_connection import Entrance
    from simulator.world.quirks import Quirks
    from simulator.world.register import Register

#: Events that come with the arrival in a state, beside its STATUS_CHANGE.
EVENTS_OF_A_STATE = {DELETED: (DELETED_EVENT,), NEW_ACCOUNTS: (NEW_ACCOUNTS_EVENT,)}


class Transitions:
    """Carries out what the world has found to be possible."""

    def __init__(
        self,
        *,
        register: Register,
        entrance: Entrance,
        herald: PayloadComposer,
        clock: Callable[[], datetime],
        habits: Callable[[], Quirks],
    ) -> None:
        self._register = register
        self._entrance = entrance
        self._herald = herald
        self._clock = clock
        self._habits = habits

    def connect(self, connection: SimulatedConnection) -> list[Announcement]:
        """The customer came through the widget: healthy, and the primary of its group."""
        institution = connection.institution or self._entrance.choose()
        healthy = replace(self._foremost(connection), state=HEALTHY, institution=institution)
        return self._apply(healthy, opening=(COMPLETED_EVENT,), closing=(UPDATING_EVENT,))

    def join(self, connection: SimulatedConnection) -> list[Announcement]:
        """A connection that has been put into a group becomes its primary."""
        return self._apply(self._foremost(connection))

    def turn(self, connection: SimulatedConnection, state: MeldState) -> list[Announcement]:
        """The connection gets into that state; one that leaves the widget alive has an institution."""
        changed = replace(connection, state=state)
        if connection.state == OPEN and changed.living:
            changed = replace(changed, institution=connection.institution or self._entrance.choose())
        return self._apply(changed, opening=EVENTS_OF_A_STATE.get(state, ()))

    def aggregate(self, connection: SimulatedConnection) -> list[Announcement]:
        """The provider fetches, which makes the connection primary; in vain where the login does not work."""
        former = primary_of(self._register.members(connection.group))
        state = former.state if former and connection.state == INACTIVE else connection.state
        changed = self._foremost(connection)
        if state.status in UNREACHABLE:
            return self._apply(changed)
        return self._apply(replace(changed, aggregated_at=self._clock()), closing=tuple(closing_events(connection)))

    def grouped(self, connection: SimulatedConnection, other: SimulatedConnection) -> SimulatedConnection:
        """The connection with the login of the other, in one group with it; not stored yet."""
        if other.id == connection.id or other.customer_id != connection.customer_id:
            raise ImpossibleError("a group is made of different connections of one customer")
        group = other.group or self._register.new_group()
        self._register.put(replace(other, group=group))
        return replace(connection, group=group, institution=other.institution, item_id=other.item_id)

    def _foremost(self, connection: SimulatedConnection) -> SimulatedConnection:
        return replace(connection, rank=self._register.next_rank())

    def _apply(
        self, changed: SimulatedConnection, *, opening: Sequence[str] = (), closing: Sequence[str] = ()
    ) -> list[Announcement]:
        members = self._register.members(changed.group)
        siblings = [one for one in members if one.id != changed.id]
        before = [self._register.get(changed.id), *siblings]
        after = settle([changed, *siblings], primary_of(members), deleted_kept=self._habits().deleted_kept)
        for connection in after:
            self._register.put(connection)
        change = Change(connection_id=changed.id, before=before, after=after, opening=opening, closing=closing)
        return self._herald.report(change, self._habits())
