"""State transitions: an action changes a connection, then its duplicate group, and yields the webhook events."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.errors import ImpossibleError
from simulator.world.duplicate_groups import primary_of, update_group
from simulator.world.vocabulary import (
    COMPLETED_EVENT,
    DELETED,
    DELETED_EVENT,
    HEALTHY,
    IN_PROGRESS,
    INACTIVE_DUPLICATE,
    NEW_ACCOUNTS,
    NEW_ACCOUNTS_EVENT,
    NOT_AGGREGATED,
    UPDATING_EVENT,
    MeldState,
)
from simulator.world.webhook_payloads import Change, PayloadComposer, WebhookEvent, aggregation_events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from simulator.world.connection import SimulatedConnection
    from simulator.world.connection_store import ConnectionStore
    from simulator.world.new_connection import ConnectionFactory
    from simulator.world.quirks import Quirks

#: Events sent when a connection enters a state, in addition to STATUS_CHANGE.
EVENTS_BY_STATE = {DELETED: (DELETED_EVENT,), NEW_ACCOUNTS: (NEW_ACCOUNTS_EVENT,)}


class Transitions:
    """Carries out actions; the caller has checked that they are permitted."""

    def __init__(
        self,
        *,
        store: ConnectionStore,
        factory: ConnectionFactory,
        composer: PayloadComposer,
        clock: Callable[[], datetime],
        quirks: Callable[[], Quirks],
    ) -> None:
        self._store = store
        self._factory = factory
        self._composer = composer
        self._clock = clock
        self._quirks = quirks

    def connect(self, connection: SimulatedConnection) -> list[WebhookEvent]:
        """Complete the widget: the connection becomes healthy, and the primary of its group."""
        institution = connection.institution or self._factory.choose_institution()
        healthy = replace(self._with_highest_rank(connection), state=HEALTHY, institution=institution)
        return self._apply(healthy, first_events=(COMPLETED_EVENT,), last_events=(UPDATING_EVENT,))

    def join(self, connection: SimulatedConnection) -> list[WebhookEvent]:
        """Make a connection that was assigned to a group its primary."""
        return self._apply(self._with_highest_rank(connection))

    def change_state(self, connection: SimulatedConnection, state: MeldState) -> list[WebhookEvent]:
        """Put the connection into this state; one that leaves IN_PROGRESS alive gets an institution."""
        changed = replace(connection, state=state)
        if connection.state == IN_PROGRESS and changed.is_alive:
            changed = replace(changed, institution=connection.institution or self._factory.choose_institution())
        return self._apply(changed, first_events=EVENTS_BY_STATE.get(state, ()))

    def aggregate(self, connection: SimulatedConnection) -> list[WebhookEvent]:
        """Aggregate data: the connection becomes the primary of its group.

        In a status in which the provider cannot fetch data, aggregated_at stays and no data events are sent.
        """
        former = primary_of(self._store.members(connection.group))
        state = former.state if former and connection.state == INACTIVE_DUPLICATE else connection.state
        changed = self._with_highest_rank(connection)
        if state.status in NOT_AGGREGATED:
            return self._apply(changed)
        return self._apply(
            replace(changed, aggregated_at=self._clock()), last_events=tuple(aggregation_events(connection))
        )

    def with_group(self, connection: SimulatedConnection, other: SimulatedConnection) -> SimulatedConnection:
        """Return the connection with the other's login and group; only the other one is stored."""
        if other.id == connection.id or other.customer_id != connection.customer_id:
            raise ImpossibleError("a group consists of different connections of one customer")
        group = other.group or self._store.new_group()
        self._store.put(replace(other, group=group))
        return replace(connection, group=group, institution=other.institution, item_id=other.item_id)

    def _with_highest_rank(self, connection: SimulatedConnection) -> SimulatedConnection:
        return replace(connection, rank=self._store.next_rank())

    def _apply(
        self, changed: SimulatedConnection, *, first_events: Sequence[str] = (), last_events: Sequence[str] = ()
    ) -> list[WebhookEvent]:
        members = self._store.members(changed.group)
        siblings = [one for one in members if one.id != changed.id]
        before = [self._store.get(changed.id), *siblings]
        after = update_group([changed, *siblings], primary_of(members), deleted_kept=self._quirks().deleted_kept)
        for connection in after:
            self._store.put(connection)
        change = Change(
            connection_id=changed.id, before=before, after=after, first_events=first_events, last_events=last_events
        )
        return self._composer.compose_all(change, self._quirks())
