"""The simulated Meld account: all connections, the actions that change them, and the views that reads return.

An action changes the state at once and returns the webhook events that Meld would send. The caller decides whether
they are sent, held back or lost. This module uses no network; clock and random source are passed in.
"""

from __future__ import annotations

from datetime import timedelta
from threading import RLock
from typing import TYPE_CHECKING, Any

from simulator.errors import ImpossibleError
from simulator.ids import IdGenerator
from simulator.thread_lock import synchronized
from simulator.world.connection_store import ConnectionStore
from simulator.world.new_connection import DEFAULT_DETAILS, ConnectionFactory, NewConnection, validate_products
from simulator.world.permitted_actions import require_permitted
from simulator.world.quirks import Quirks
from simulator.world.read_lag import LaggingView
from simulator.world.transitions import Transitions
from simulator.world.vocabulary import (
    DELETED,
    EXPIRED,
    HEALTHY,
    IN_PROGRESS,
    INACTIVE_DUPLICATE,
    LOGIN_REQUIRED,
    TERMINAL,
    MeldState,
)
from simulator.world.webhook_payloads import PayloadComposer, WebhookEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from random import Random

    from simulator.world.connection import SimulatedConnection
    from simulator.world.pagination import ListQuery

#: The lifetime of a connect token that Meld has published.
IN_PROGRESS_LIFETIME = timedelta(hours=4)


class World:
    """All connections of one Meld account, and the actions on them; thread-safe."""

    def __init__(self, *, clock: Callable[[], datetime], random: Random, quirks: Quirks | None = None) -> None:
        self.lock = RLock()
        self.quirks = quirks or Quirks()
        self._clock = clock
        self._random = random
        self._ids = IdGenerator(random)
        self._composer = PayloadComposer(ids=self._ids, clock=clock)
        self.clear()

    @property
    def account_id(self) -> str:
        """The id of the Meld account."""
        return self._composer.account_id

    @synchronized
    def __len__(self) -> int:
        return len(self._store)

    def now(self) -> datetime:
        """Return the time of the world's clock."""
        return self._clock()

    @synchronized
    def clear(self) -> None:
        """Delete all connections."""
        self._store = ConnectionStore(self._clock)
        self._api_view = LaggingView(self._store, self._clock, self.account_id)
        self._factory = ConnectionFactory(store=self._store, ids=self._ids, random=self._random)
        self._transitions = Transitions(
            store=self._store,
            factory=self._factory,
            composer=self._composer,
            clock=self._clock,
            quirks=lambda: self.quirks,
        )

    # New connections

    @synchronized
    def start(self, details: NewConnection = DEFAULT_DETAILS) -> SimulatedConnection:
        """Create a connection in progress: a customer opens the widget. Meld documents no webhook for it."""
        return self.add(IN_PROGRESS, details)

    @synchronized
    def add(self, state: MeldState = HEALTHY, details: NewConnection = DEFAULT_DETAILS) -> SimulatedConnection:
        """Create a connection in this state without any webhook event."""
        connection = self._factory.create(details, state, self._clock())
        self._store.put(connection)
        return connection

    # Actions

    @synchronized
    def complete(self, connection_id: str, *, duplicate_of: str | None = None) -> list[WebhookEvent]:
        """Complete the widget, optionally with the login of another connection of the same customer."""
        connection = self._get_permitted("complete", connection_id)
        if duplicate_of is not None:
            connection = self._transitions.with_group(connection, self._get_permitted("join", duplicate_of))
        return self._transitions.connect(connection)

    @synchronized
    def join(self, connection_id: str, other_id: str) -> list[WebhookEvent]:
        """Add a connection without duplicates to the group of another one, as the group's primary."""
        connection, other = self._get_permitted("join", connection_id), self._get_permitted("join", other_id)
        if connection.duplicate_ids:
            raise ImpossibleError(f"{connection_id} is in a group already")
        return self._transitions.join(self._transitions.with_group(connection, other))

    @synchronized
    def break_connection(self, connection_id: str, state: MeldState = LOGIN_REQUIRED) -> list[WebhookEvent]:
        """Put a linked connection into a broken state."""
        connection = self._get_permitted("break", connection_id)
        if state.status in TERMINAL or state in (HEALTHY, IN_PROGRESS, INACTIVE_DUPLICATE):
            raise ImpossibleError(f"{state} is not a broken state")
        return self._transitions.change_state(connection, state)

    @synchronized
    def set_state(self, connection_id: str, state: MeldState) -> list[WebhookEvent]:
        """Put a connection into any state except inactive duplicate, including undocumented ones."""
        connection = self._get_permitted("state", connection_id)
        if state == INACTIVE_DUPLICATE:
            raise ImpossibleError("a connection becomes an inactive duplicate only in a group: use the action join")
        if state == IN_PROGRESS and connection.duplicate_ids:
            raise ImpossibleError("a member of a group cannot be in progress")
        return self._transitions.change_state(connection, state)

    @synchronized
    def heal(self, connection_id: str) -> list[WebhookEvent]:
        """Make a broken connection healthy without the customer."""
        return self._transitions.change_state(self._get_permitted("heal", connection_id), HEALTHY)

    @synchronized
    def repair(self, connection_id: str) -> list[WebhookEvent]:
        """Reconnect by the customer: the connection becomes healthy, and the primary of its group."""
        return self._transitions.connect(self._get_permitted("repair", connection_id))

    @synchronized
    def refresh(self, connection_id: str, products: Sequence[str] = ()) -> list[WebhookEvent]:
        """Force a refresh; an inactive duplicate becomes primary and takes over the former primary's state."""
        return self._transitions.aggregate(self.get_refreshable(connection_id, products))

    @synchronized
    def get_refreshable(self, connection_id: str, products: Sequence[str] = ()) -> SimulatedConnection:
        """Return the connection if a forced refresh of these products is permitted.

        Raises:
            AbsentError: There is no such connection.
            ImpossibleError: Its status does not permit a refresh.
            MalformedError: A product was not granted.
        """
        connection = self._get_permitted("refresh", connection_id)
        validate_products(products, (*connection.products, *connection.optional_products))
        return connection

    @synchronized
    def aggregate(self, connection_id: str) -> list[WebhookEvent]:
        """Refresh in the background, as the provider does."""
        return self._transitions.aggregate(self._get_permitted("aggregate", connection_id))

    @synchronized
    def delete(self, connection_id: str) -> list[WebhookEvent]:
        """Delete a connection for good: by request, or because the customer withdrew consent."""
        return self._transitions.change_state(self._get_permitted("delete", connection_id), DELETED)

    @synchronized
    def expire(self, connection_id: str) -> list[WebhookEvent]:
        """Expire a connection whose customer never completed the widget."""
        return self._transitions.change_state(self._get_permitted("expire", connection_id), EXPIRED)

    @synchronized
    def expire_due(self) -> list[WebhookEvent]:
        """Expire all connections that have been in progress for longer than their lifetime."""
        latest = self._clock() - IN_PROGRESS_LIFETIME
        due = [one.id for one in self.connections() if one.state == IN_PROGRESS and one.created_at <= latest]
        return [event for connection_id in due for event in self.expire(connection_id)]

    @synchronized
    def compose_event(
        self,
        event_type: str,
        connection_id: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        event_id: str | None = None,
    ) -> WebhookEvent:
        """Compose a webhook event of any type without any change."""
        connection = None if connection_id is None else self.connection(connection_id)
        return self._composer.compose(event_type, connection, overrides=overrides, event_id=event_id)

    @synchronized
    def new_id(self) -> str:
        """Return an unused id."""
        return self._ids.new_id()

    # Views

    @synchronized
    def connection(self, connection_id: str) -> SimulatedConnection:
        """Return the present version of a connection."""
        return self._store.get(connection_id)

    @synchronized
    def by_number(self, number: int) -> SimulatedConnection:
        """Return a connection by its number in the order of creation, from 1."""
        return self._store.by_number(number)

    @synchronized
    def connections(self) -> list[SimulatedConnection]:
        """Return all connections, oldest first."""
        return [self._store.by_number(number) for number in range(1, len(self._store) + 1)]

    @synchronized
    def of_customer(self, customer_id: str) -> list[SimulatedConnection]:
        """Return a customer's connections, oldest first."""
        return self._store.of_customer(customer_id)

    @synchronized
    def view(self, connection_id: str, *, seconds_ago: float = 0) -> dict[str, Any]:
        """Return a connection as Meld's API shows it, now or as of some seconds ago (read lag)."""
        return self._api_view.get(connection_id, self.quirks, seconds_ago=seconds_ago)

    @synchronized
    def truth(self, connection_id: str) -> dict[str, Any]:
        """Return the present state in Meld's JSON, even of a connection that Meld's API no longer shows."""
        return self._api_view.truth(connection_id, self.quirks)

    @synchronized
    def page(self, query: ListQuery, *, seconds_ago: float = 0, shift: int = 0) -> dict[str, Any]:
        """Return a page of Meld's list; a shift moves the start of the page by that many items."""
        return self._api_view.page(query, self.quirks, seconds_ago=seconds_ago, shift=shift)

    def _get_permitted(self, action: str, connection_id: str) -> SimulatedConnection:
        connection = self._store.get(connection_id)
        require_permitted(action, connection.state, self.quirks)
        return connection
