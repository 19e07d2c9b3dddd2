"""In-memory store of the connections: versions over time, and indexes by number, customer and group."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

from simulator.errors import AbsentError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from simulator.world.connection import SimulatedConnection

#: Enough versions of a connection for reads with lag; a connection changes a few times a day.
MAX_VERSIONS = 32


class ConnectionStore:
    """Stores connections in the order of their creation; Meld's rules are applied elsewhere."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._versions: dict[str, deque[tuple[datetime, SimulatedConnection]]] = {}
        self._ids: list[str] = []
        self._groups: defaultdict[int, list[str]] = defaultdict(list)
        self._of_customer: defaultdict[str, list[str]] = defaultdict(list)
        self._customers: dict[str, str] = {}
        self._rank = 0
        self._group = 0

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, connection_id: str) -> bool:
        return connection_id in self._versions

    def put(self, connection: SimulatedConnection) -> None:
        """Store this as the connection's present version."""
        versions = self._versions.get(connection.id)
        if versions is None:
            versions = self._insert(connection)
        elif versions[-1][1] == connection:
            return
        self._move_between_groups(versions[-1][1].group if versions else None, connection)
        versions.append((self._clock(), connection))

    def get(self, connection_id: str) -> SimulatedConnection:
        """Return the present version.

        Raises:
            AbsentError: There is no connection with this id.
        """
        try:
            return self._versions[connection_id][-1][1]
        except KeyError:
            raise AbsentError(f"there is no connection {connection_id}") from None

    def as_of(self, connection_id: str, moment: datetime) -> SimulatedConnection:
        """Return the version as of a moment; the oldest stored one if the moment is before all of them."""
        self.get(connection_id)
        versions = self._versions[connection_id]
        return next((version for since, version in reversed(versions) if since <= moment), versions[0][1])

    def by_number(self, number: int) -> SimulatedConnection:
        """Return a connection by its number in the order of creation, from 1."""
        return self.get(self._ids[number - 1])

    def members(self, group: int | None) -> list[SimulatedConnection]:
        """Return the members of a group, including deleted and expired ones."""
        return [] if group is None else [self.get(member) for member in self._groups[group]]

    def of_customer(self, customer_id: str) -> list[SimulatedConnection]:
        """Return the customer's connections, oldest first."""
        return [self.get(connection_id) for connection_id in self._of_customer[customer_id]]

    def customer_id(self, external_customer_id: str) -> str | None:
        """Return Meld's id of a customer, None for an unknown customer."""
        return self._customers.get(external_customer_id)

    def new_group(self) -> int:
        """Return the number of a new, empty group."""
        self._group += 1
        return self._group

    def next_rank(self) -> int:
        """Return a rank above all earlier ones."""
        self._rank += 1
        return self._rank

    def _insert(self, connection: SimulatedConnection) -> deque[tuple[datetime, SimulatedConnection]]:
        self._ids.append(connection.id)
        self._of_customer[connection.customer_id].append(connection.id)
        self._customers[connection.external_customer_id] = connection.customer_id
        return self._versions.setdefault(connection.id, deque(maxlen=MAX_VERSIONS))

    def _move_between_groups(self, former: int | None, connection: SimulatedConnection) -> None:
        if former == connection.group:
            return
        if former is not None:
            self._groups[former].remove(connection.id)
        if connection.group is not None:
            self._groups[connection.group].append(connection.id)
