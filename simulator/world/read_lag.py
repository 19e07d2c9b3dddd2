"""What can be seen of the register through Meld's API, now or as it was some seconds ago."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from simulator.errors import AbsentError
from simulator.world import listing
from simulator.world.connection import wire
from simulator.world.vocabulary import DELETED

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from simulator.world.connection import SimulatedConnection
    from simulator.world.listing import ListQuery
    from simulator.world.quirks import Quirks
    from simulator.world.register import Register


class LaggingView:
    """Looks, and changes nothing."""

    def __init__(self, register: Register, clock: Callable[[], datetime], account_id: str) -> None:
        self._register = register
        self._clock = clock
        self._account_id = account_id

    def one(self, connection_id: str, habits: Quirks, *, seconds_ago: float) -> dict[str, Any]:
        """The connection, or AbsentError."""
        connection = self._version(connection_id, seconds_ago)
        if habits.deleted_gone and connection.state.status == DELETED.status:
            raise AbsentError(f"there is no connection {connection_id}")
        return wire(connection, self._account_id, habits)

    def truth(self, connection_id: str, habits: Quirks) -> dict[str, Any]:
        """The connection as it is, hidden or not."""
        return wire(self._register.get(connection_id), self._account_id, habits)

    def page(self, query: ListQuery, habits: Quirks, *, seconds_ago: float, shift: int) -> dict[str, Any]:
        """A page of the list in its envelope."""
        page = listing.page(self._register, query, deleted_gone=habits.deleted_gone, shift=shift)
        connections = [self._version(self._register.numbered(number).id, seconds_ago) for number in page.numbers]
        items = [wire(one, self._account_id, habits) | {"key": listing.key(one.number)} for one in connections]
        return {"connections": items, "count": len(items), "remaining": page.remaining}

    def _version(self, connection_id: str, seconds_ago: float) -> SimulatedConnection:
        if not seconds_ago:
            return self._register.get(connection_id)
        return self._register.as_of(connection_id, self._clock() - timedelta(seconds=seconds_ago))
