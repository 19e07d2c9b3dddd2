"""Read lag (eventual consistency): what Meld's API shows of the connections, now or as of some seconds ago."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from simulator.errors import AbsentError
from simulator.world import pagination
from simulator.world.connection import to_meld_json
from simulator.world.vocabulary import DELETED

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from simulator.world.connection import SimulatedConnection
    from simulator.world.connection_store import ConnectionStore
    from simulator.world.pagination import ListQuery
    from simulator.world.quirks import Quirks


class LaggingView:
    """A read-only view of the connections, with an optional lag in seconds."""

    def __init__(self, store: ConnectionStore, clock: Callable[[], datetime], account_id: str) -> None:
        self._store = store
        self._clock = clock
        self._account_id = account_id

    def get(self, connection_id: str, quirks: Quirks, *, seconds_ago: float) -> dict[str, Any]:
        """Return the connection as of some seconds ago.

        Raises:
            AbsentError: It does not exist, or it is deleted and the quirk deleted_gone hides it.
        """
        connection = self._version(connection_id, seconds_ago)
        if quirks.deleted_gone and connection.state.status == DELETED.status:
            raise AbsentError(f"there is no connection {connection_id}")
        return to_meld_json(connection, self._account_id, quirks)

    def truth(self, connection_id: str, quirks: Quirks) -> dict[str, Any]:
        """Return the present state of the connection, even if a quirk hides it from the API."""
        return to_meld_json(self._store.get(connection_id), self._account_id, quirks)

    def page(self, query: ListQuery, quirks: Quirks, *, seconds_ago: float, shift: int) -> dict[str, Any]:
        """Return a page of the list in its envelope."""
        page = pagination.paginate(self._store, query, deleted_gone=quirks.deleted_gone, shift=shift)
        connections = [self._version(self._store.by_number(number).id, seconds_ago) for number in page.numbers]
        items = [
            to_meld_json(one, self._account_id, quirks) | {"key": pagination.encode_cursor(one.number)}
            for one in connections
        ]
        return {"connections": items, "count": len(items), "remaining": page.remaining}

    def _version(self, connection_id: str, seconds_ago: float) -> SimulatedConnection:
        if not seconds_ago:
            return self._store.get(connection_id)
        return self._store.as_of(connection_id, self._clock() - timedelta(seconds=seconds_ago))
