"""The hand on the simulated Meld, or on the quick one: what happens in its world, and what was read of it."""

import contextlib
import http.client
import json
from collections.abc import Mapping
from typing import Any


class Simulated:
    """A Meld in a process of its own."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port

    def create(self, count: int) -> list[str]:
        """Make healthy connections, in silence; return their ids."""
        made = self._ask("POST", "/sim/connections", {"count": count})
        return [connection["id"] for connection in made["connections"]]

    def group(self, size: int) -> list[str]:
        """Make a group of healthy connections, and announce them; return their ids."""
        made = self._ask("POST", "/sim/connections", {"group": size, "announce": True})
        return [connection["id"] for connection in made["connections"]]

    def act(self, connection_id: str, name: str) -> None:
        """Let something happen to a connection, and announce it."""
        self._ask("POST", f"/sim/connections/{connection_id}/{name}")

    def change(self, connection_id: str, status: str) -> None:
        """Change a connection's status, and send no webhook."""
        self._ask("POST", f"/sim/connections/{connection_id}/state", {"status": status, "announce": False})

    def status(self, connection_id: str) -> str:
        """Return the truth."""
        return str(self._ask("GET", f"/sim/connections/{connection_id}")["status"])

    def slow_next(self, connection_id: str, seconds: float) -> None:
        """Have the next read of a connection answered late, with the state of when it began."""
        self._ask("POST", "/sim/reads", {"connectionId": connection_id, "steps": [{"delay": seconds}]})

    def counts(self) -> dict[str, int]:
        """Return how many reads of each connection have begun."""
        return dict(self._ask("GET", "/sim/reads?connectionId=none")["counts"])

    def reads(self) -> int:
        """Return how many reads have begun, of any connection."""
        return sum(self.counts().values())

    def lists(self) -> int:
        """Return how many pages of the list were asked for."""
        return int(self._ask("GET", "/sim/reads?connectionId=none")["lists"])

    def answered(self) -> list[float]:
        """Return when each read was answered; of the quick one alone."""
        return list(self._ask("GET", "/stand-in/reads")["answered"])

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        status, content = exchange(self._port, method, path, json.dumps(body).encode() if body is not None else None)
        assert status < 300, (method, path, status, content)
        return dict(json.loads(content))


def exchange(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Send one request to the loopback, over a connection of its own; return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
