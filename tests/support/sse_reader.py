"""Client of server-sent events for tests, as simple as a consumer's library."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.support.polling import eventually

TIMEOUT_SECONDS = 30


class SseReader:
    """Reads an event stream in its own thread.

    Attributes:
        status: The status of the response.
        headers: The response headers, by lower-case name.
        events: The received events, in order.
        times: When each of them was received, by ``time.monotonic``.
        last_id: The last ``id``.
        beats: The number of blocks without an event.
        has_ended: Whether the response was complete.
    """

    def __init__(self, url: str, token: str, *, last_event_id: str | None = None, **query: Any) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
        self._connection.request("GET", f"/api/events/stream?{urlencode(query)}", headers=headers)
        self._socket = self._connection.sock
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in self._answer.getheaders()}
        self.events: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.last_id: str | None = None
        self.heartbeats = 0
        self.has_ended = False
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        if self.status == http.client.OK:
            self._thread.start()

    @property
    def positions(self) -> list[int]:
        """The positions of the received events."""
        return [event["position"] for event in self.events]

    def wait_for(self, count: int, seconds: float = 10) -> list[int]:
        """Wait for a number of events; return the positions of all."""
        eventually(lambda: len(self.events) >= count, seconds, message=f"event {count}; there are {self.positions}")
        return self.positions

    def wait_for_begin(self) -> None:
        """Wait for the position that the stream begins with."""
        eventually(lambda: self.last_id, message="the position to begin with")

    def wait_for_end(self) -> None:
        """Wait until the response has ended, complete or not."""
        self._thread.join(TIMEOUT_SECONDS)

    def problem(self) -> Any:
        """Return the problem details of a refused stream."""
        return json.loads(self._answer.read())

    def close(self) -> None:
        """Close the connection without notice."""
        with suppress(OSError):  # already closed
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(TIMEOUT_SECONDS)
        self._answer.close()
        self._connection.close()
        self._socket.close()

    def _run(self) -> None:
        data: list[str] = []
        with suppress(OSError, http.client.HTTPException):  # the connection broke
            while line := self._answer.readline():
                self._take(line.decode().removesuffix("\n"), data)
            # A broken response looks like a complete one, except that its last chunk is missing.
            self.has_ended = getattr(self._answer, "chunk_left", 0) is None

    def _take(self, line: str, data: list[str]) -> None:
        name, _, value = line.partition(": ")
        if name == "data":
            data.append(value)
        elif name == "id":
            self.last_id = value
        elif not line and data:
            self.times.append(time.monotonic())
            self.events.append(json.loads("\n".join(data)))
            data.clear()
        elif not line:
            self.heartbeats += 1
