"""A reader of server-sent events, on a socket of its own: what a consumer's library would do, and no more."""

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

PATIENCE_SECONDS = 30


class Reader:
    """Reads a stream in a thread of its own, from when it is made.

    Attributes:
        status: The answer's status.
        headers: The answer's headers, by lower case names.
        events: What came, in order.
        times: When each of them came, by ``time.monotonic``.
        last_id: The ``id`` that came last.
        beats: How many blocks without an event came.
        has_ended: Whether the answer came to its end as an answer should.
    """

    def __init__(self, url: str, token: str, *, last_event_id: str | None = None, **query: Any) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_SECONDS)
        headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
        self._connection.request("GET", f"/api/events/stream?{urlencode(query)}", headers=headers)
        self._socket = self._connection.sock
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in self._answer.getheaders()}
        self.events: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.last_id: str | None = None
        self.beats = 0
        self.has_ended = False
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        if self.status == http.client.OK:
            self._thread.start()

    @property
    def positions(self) -> list[int]:
        """The positions of what came."""
        return [event["position"] for event in self.events]

    def wait_for(self, count: int, seconds: float = 10) -> list[int]:
        """Wait until so many events have come; return their positions."""
        eventually(lambda: len(self.events) >= count, seconds, message=f"event {count}; there are {self.positions}")
        return self.positions

    def wait_for_begin(self) -> None:
        """Wait until it is told where it begins."""
        eventually(lambda: self.last_id, message="the position to begin with")

    def wait_for_end(self) -> None:
        """Wait until the answer has ended, however it did."""
        self._thread.join(PATIENCE_SECONDS)

    def problem(self) -> Any:
        """Return the answer to a stream that was refused."""
        return json.loads(self._answer.read())

    def close(self) -> None:
        """Go away without a word."""
        with suppress(OSError):  # it has gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_SECONDS)
        self._answer.close()
        self._connection.close()
        self._socket.close()

    def _run(self) -> None:
        data: list[str] = []
        with suppress(OSError, http.client.HTTPException):  # cut off
            while line := self._answer.readline():
                self._take(line.decode().removesuffix("\n"), data)
            # What is cut off looks as if it were at an end; only the last chunk makes it so.
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
            self.beats += 1
