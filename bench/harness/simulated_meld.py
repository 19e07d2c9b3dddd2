"""Control of the simulated Meld, or of the quick one: create and change connections, count reads."""

import contextlib
import http.client
import json
from collections.abc import Mapping
from typing import Any


class MeldControl:
    """A Meld in its own process."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port

    def create(self, count: int) -> list[str]:
        """Create healthy connections without webhooks; return their ids."""
        answer = self._call("POST", "/sim/connections", {"count": count})
        return [connection["id"] for connection in answer["connections"]]

    def create_group(self, size: int) -> list[str]:
        """Create a duplicate group with its webhooks; return the ids."""
        answer = self._call("POST", "/sim/connections", {"group": size, "announce": True})
        return [connection["id"] for connection in answer["connections"]]

    def run_action(self, connection_id: str, name: str) -> None:
        """Run an action on a connection, with its webhooks."""
        self._call("POST", f"/sim/connections/{connection_id}/{name}")

    def set_status(self, connection_id: str, status: str) -> None:
        """Set a connection's status without a webhook."""
        self._call("POST", f"/sim/connections/{connection_id}/state", {"status": status, "announce": False})

    def status(self, connection_id: str) -> str:
        """Return the present status of a connection."""
        return str(self._call("GET", f"/sim/connections/{connection_id}")["status"])

    def delay_next_read(self, connection_id: str, seconds: float) -> None:
        """Delay the answer to the next read of a connection; it shows the state of the read's beginning."""
        self._call("POST", "/sim/reads", {"connectionId": connection_id, "steps": [{"delay": seconds}]})

    def counts(self) -> dict[str, int]:
        """Return how many reads of each connection have begun."""
        return dict(self._call("GET", "/sim/reads?connectionId=none")["counts"])

    def reads(self) -> int:
        """Return how many reads of all connections have begun."""
        return sum(self.counts().values())

    def lists(self) -> int:
        """Return how many pages of the list were requested."""
        return int(self._call("GET", "/sim/reads?connectionId=none")["lists"])

    def answer_times(self) -> list[float]:
        """Return the time of each answer; only the quick Meld records them."""
        return list(self._call("GET", "/stand-in/reads")["answered"])

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        status, content = send_request(
            self._port, method, path, json.dumps(body).encode() if body is not None else None
        )
        assert status < 300, (method, path, status, content)
        return dict(json.loads(content))


def send_request(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Send one request to a local port over a new connection; return status code and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
