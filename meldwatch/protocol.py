"""HTTP/1.1 with bounds on a request's head.

uvicorn bounds neither its size nor its time: a slow sender, or one whose headers never end, would hold a connection
and memory for ever.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 32 * 1024
HEAD_SECONDS = 10.0


class Protocol(HttpToolsProtocol):
    """uvicorn's own protocol, which ends a connection whose request head is too long (431) or too slow (408).

    Attributes:
        head_seconds: How long a request's head may take.
    """

    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - handed through
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._is_in_head = True
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: the first head must come soon."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before a head is complete."""
        if self._is_in_head:
            self._head_bytes += len(data)
            self._start_timer()
        super().data_received(data)
        if self._is_in_head and self._head_bytes > LONGEST_HEAD:
            self._refuse(431)

    def on_headers_complete(self) -> None:
        """Stop the clock: the application bounds the body. A head that came in one piece is measured here."""
        self._is_in_head = False
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > LONGEST_HEAD:
            self._refuse(431)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Drop what belongs to a request that was refused."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin anew, for the next request on this connection."""
        if not self.transport.is_closing():
            super().on_message_complete()
        self._is_in_head = True
        self._head_bytes = 0

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_seconds, self._refuse, 408)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.write(f"HTTP/1.1 {status} \r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            self.transport.close()
