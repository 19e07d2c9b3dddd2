"""Every connection there is, in the order of creation, with the versions it has had."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

from simulator.errors import AbsentError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from simulator.world.connection import SimulatedConnection

#: Enough for a stale read to look back at; a connection changes a few times a day.
VERSIONS_KEPT = 32


class Register:
    """Keeps connections; knows nothing of Meld's rules."""

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
        """Make this the connection's present version."""
        versions = self._versions.get(connection.id)
        if versions is None:
            versions = self._enter(connection)
        elif versions[-1][1] == connection:
            return
        self._regroup(versions[-1][1].group if versions else None, connection)
        versions.append((self._clock(), connection))

    def get(self, connection_id: str) -> SimulatedConnection:
        """The present version, or AbsentError."""
        try:
            return self._versions[connection_id][-1][1]
        except KeyError:
            raise AbsentError(f"there is no connection {connection_id}") from None

    def as_of(self, connection_id: str, moment: datetime) -> SimulatedConnection:
        """The version of that moment; the oldest one kept where that lies before all of them."""
        self.get(connection_id)
        versions = self._versions[connection_id]
        return next((version for since, version in reversed(versions) if since <= moment), versions[0][1])

    def numbered(self, number: int) -> SimulatedConnection:
        """The connection that was created as the number-th, counting from 1."""
        return self.get(self._ids[number - 1])

    def members(self, group: int | None) -> list[SimulatedConnection]:
        """The members of a group, dead ones included."""
        return [] if group is None else [self.get(member) for member in self._groups[group]]

    def of_customer(self, customer_id: str) -> list[SimulatedConnection]:
        """The customer's connections, oldest first."""
        return [self.get(connection_id) for connection_id in self._of_customer[customer_id]]

    def customer(self, external_customer_id: str) -> str | None:
        """Meld's id for a customer of ours, None for one never seen."""
        return self._customers.get(external_customer_id)

    def new_group(self) -> int:
        """A group nobody is in yet."""
        self._group += 1
        return self._group

    def next_rank(self) -> int:
        """A rank above all that were given before."""
        self._rank += 1
        return self._rank

    def _enter(self, connection: SimulatedConnection) -> deque[tuple[datetime, SimulatedConnection]]:
        self._ids.append(connection.id)
        self._of_customer[connection.customer_id].append(connection.id)
        self._customers[connection.external_customer_id] = connection.customer_id
        return self._versions.setdefault(connection.id, deque(maxlen=VERSIONS_KEPT))

    def _regroup(self, former: int | None, connection: SimulatedConnection) -> None:
        if former == connection.group:
            return
        if former is not None:
            self._groups[former].remove(connection.id)
        if connection.group is not None:
            self._groups[connection.group].append(connection.id)
