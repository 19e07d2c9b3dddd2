"""The truth: every connection, and the acts that change it under Meld's rules.

Nothing here reaches a network, a clock or a random number of its own. An act changes the truth at once and returns
what Meld would announce; whoever asked for it decides whether the announcements are sent, held back or lost.
"""

from __future__ import annotations

from datetime import timedelta
from threading import RLock
from typing import TYPE_CHECKING, Any

from simulator.errors import ImpossibleError
from simulator.ids import Mint
from simulator.thread_lock import exclusive
from simulator.world.new_connection import ANYBODY, Entrance, NewConnection, check_products
from simulator.world.permitted_actions import insist
from simulator.world.quirks import Quirks
from simulator.world.read_lag import LaggingView
from simulator.world.register import Register
from simulator.world.transitions import Transitions
from simulator.world.vocabulary import DELETED, EXPIRED, HEALTHY, INACTIVE, LOGIN_REQUIRED, OPEN, TERMINAL, MeldState
from simulator.world.webhook_payloads import Announcement, PayloadComposer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from random import Random

    from simulator.world.connection import SimulatedConnection
    from simulator.world.listing import ListQuery

#: A connect token that Meld has published lives exactly this long.
LIFE_OF_AN_OPEN_CONNECTION = timedelta(hours=4)


class World:
    """All connections of one Meld account, and what may be done to them."""

    def __init__(self, *, clock: Callable[[], datetime], random: Random, habits: Quirks | None = None) -> None:
        self.lock = RLock()
        self.habits = habits or Quirks()
        self._clock = clock
        self._random = random
        self._mint = Mint(random)
        self._herald = PayloadComposer(mint=self._mint, clock=clock)
        self.clear()

    @property
    def account_id(self) -> str:
        """The one Meld account that everything belongs to."""
        return self._herald.account_id

    @exclusive
    def __len__(self) -> int:
        return len(self._register)

    def now(self) -> datetime:
        """The moment by the world's clock."""
        return self._clock()

    @exclusive
    def clear(self) -> None:
        """Forget every connection."""
        self._register = Register(self._clock)
        self._window = LaggingView(self._register, self._clock, self.account_id)
        self._entrance = Entrance(register=self._register, mint=self._mint, random=self._random)
        self._consequences = Transitions(
            register=self._register,
            entrance=self._entrance,
            herald=self._herald,
            clock=self._clock,
            habits=lambda: self.habits,
        )

    # What comes into the world

    @exclusive
    def start(self, opening: NewConnection = ANYBODY) -> SimulatedConnection:
        """A customer opens the widget; Meld documents no announcement."""
        return self.add(OPEN, opening)

    @exclusive
    def add(self, state: MeldState = HEALTHY, opening: NewConnection = ANYBODY) -> SimulatedConnection:
        """A connection that has long been there, in silence."""
        connection = self._entrance.admit(opening, state, self._clock())
        self._register.put(connection)
        return connection

    # What happens to a connection

    @exclusive
    def complete(self, connection_id: str, *, duplicate_of: str | None = None) -> list[Announcement]:
        """The customer finishes the widget, perhaps with a login that another of their connections uses already."""
        connection = self._ready("complete", connection_id)
        if duplicate_of is not None:
            connection = self._consequences.grouped(connection, self._ready("join", duplicate_of))
        return self._consequences.connect(connection)

    @exclusive
    def join(self, connection_id: str, other_id: str) -> list[Announcement]:
        """Meld finds that a lone connection uses the login of another: it joins that group, as its primary."""
        connection, other = self._ready("join", connection_id), self._ready("join", other_id)
        if connection.duplicate_ids:
            raise ImpossibleError(f"{connection_id} is in a group already")
        return self._consequences.join(self._consequences.grouped(connection, other))

    @exclusive
    def damage(self, connection_id: str, state: MeldState = LOGIN_REQUIRED) -> list[Announcement]:
        """A linked connection gets into another state than healthy."""
        connection = self._ready("break", connection_id)
        if state.status in TERMINAL or state in (HEALTHY, OPEN, INACTIVE):
            raise ImpossibleError(f"{state} is not a way to break")
        return self._consequences.turn(connection, state)

    @exclusive
    def change(self, connection_id: str, state: MeldState) -> list[Announcement]:
        """Any state, known to Meld's documentation or not; only a group makes an inactive duplicate."""
        connection = self._ready("change", connection_id)
        if state == INACTIVE:
            raise ImpossibleError("only a group makes an inactive duplicate: let another connection join")
        if state == OPEN and connection.duplicate_ids:
            raise ImpossibleError("a member of a group cannot be in progress")
        return self._consequences.turn(connection, state)

    @exclusive
    def heal(self, connection_id: str) -> list[Announcement]:
        """A broken connection becomes healthy by itself."""
        return self._consequences.turn(self._ready("heal", connection_id), HEALTHY)

    @exclusive
    def repair(self, connection_id: str) -> list[Announcement]:
        """The customer reconnects; the connection becomes healthy, and the primary of its group."""
        return self._consequences.connect(self._ready("repair", connection_id))

    @exclusive
    def refresh(self, connection_id: str, products: Sequence[str] = ()) -> list[Announcement]:
        """A forced refresh; an inactive duplicate becomes primary and takes over the state of the one before."""
        return self._consequences.aggregate(self.refreshable(connection_id, products))

    @exclusive
    def refreshable(self, connection_id: str, products: Sequence[str] = ()) -> SimulatedConnection:
        """The connection, or the error that a forced refresh of these products ends in."""
        connection = self._ready("refresh", connection_id)
        check_products(products, (*connection.products, *connection.optional_products))
        return connection

    @exclusive
    def aggregate(self, connection_id: str) -> list[Announcement]:
        """A background refresh by the provider."""
        return self._consequences.aggregate(self._ready("aggregate", connection_id))

    @exclusive
    def delete(self, connection_id: str) -> list[Announcement]:
        """Gone for good: by request, or because the customer withdrew consent."""
        return self._consequences.turn(self._ready("delete", connection_id), DELETED)

    @exclusive
    def expire(self, connection_id: str) -> list[Announcement]:
        """The customer never finished the widget."""
        return self._consequences.turn(self._ready("expire", connection_id), EXPIRED)

    @exclusive
    def expire_due(self) -> list[Announcement]:
        """Expire every connection whose customer has had the widget open for too long."""
        latest = self._clock() - LIFE_OF_AN_OPEN_CONNECTION
        due = [one.id for one in self.connections() if one.state == OPEN and one.created_at <= latest]
        return [announcement for connection_id in due for announcement in self.expire(connection_id)]

    @exclusive
    def announce(
        self,
        event_type: str,
        connection_id: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        event_id: str | None = None,
    ) -> Announcement:
        """An announcement of any type, although nothing has happened."""
        connection = None if connection_id is None else self.connection(connection_id)
        return self._herald.compose(event_type, connection, overrides=overrides, event_id=event_id)

    @exclusive
    def new_id(self) -> str:
        """An id that nothing bears yet."""
        return self._mint.id()

    # What can be seen

    @exclusive
    def connection(self, connection_id: str) -> SimulatedConnection:
        """The connection as it is."""
        return self._register.get(connection_id)

    @exclusive
    def numbered(self, number: int) -> SimulatedConnection:
        """The connection that was created as the number-th, counting from 1."""
        return self._register.numbered(number)

    @exclusive
    def connections(self) -> list[SimulatedConnection]:
        """All connections, oldest first."""
        return [self._register.numbered(number) for number in range(1, len(self._register) + 1)]

    @exclusive
    def of_customer(self, customer_id: str) -> list[SimulatedConnection]:
        """A customer's connections, oldest first."""
        return self._register.of_customer(customer_id)

    @exclusive
    def view(self, connection_id: str, *, seconds_ago: float = 0) -> dict[str, Any]:
        """What Meld's API says of a connection, or said some seconds ago."""
        return self._window.one(connection_id, self.habits, seconds_ago=seconds_ago)

    @exclusive
    def truth(self, connection_id: str) -> dict[str, Any]:
        """The connection on Meld's wire as it is, even where Meld would no longer show it."""
        return self._window.truth(connection_id, self.habits)

    @exclusive
    def page(self, query: ListQuery, *, seconds_ago: float = 0, shift: int = 0) -> dict[str, Any]:
        """What Meld's API lists; a shift moves the start of a page by so many items."""
        return self._window.page(query, self.habits, seconds_ago=seconds_ago, shift=shift)

    def _ready(self, act: str, connection_id: str) -> SimulatedConnection:
        connection = self._register.get(connection_id)
        insist(act, connection.state, self.habits)
        return connection
