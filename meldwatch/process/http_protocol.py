"""HTTP/1.1 protocol with limits for request heads: size (431), timeout (408); defence against request smuggling.

uvicorn limits neither the size nor the duration of a request head, nor what a client sends after the response: a slow
client (slowloris), or one whose headers or trailers never end, would hold a connection and memory for ever. A proxy
usually has such limits, but the server may also run without one.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 * 1024
HEAD_SECONDS = 10.0


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which closes a connection whose request head is too long (431) or too slow (408).

    The application limits the size and the duration of a body that it reads. The rest of a body that it does not read
    must arrive soon after the response. Trailers are dropped, and have the size limit of a head.

    Attributes:
        head_seconds: Timeout of a request head, and of the rest of a body after the response.
    """

    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - handed through
        super().__init__(*args, **kwargs)
        self._non_body_bytes = 0
        self._is_in_head = True
        self._has_head_begun = False
        self._is_refused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes that are not part of a body. Read nothing after a refusal."""
        if self._is_refused:
            return
        self._non_body_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and (self._has_head_begun or self._non_body_bytes):
            self._start_timer()
        if self._non_body_bytes > MAX_HEAD_BYTES:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """Remember that a head has begun."""
        self._has_head_begun = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; drop a trailer, since it would add a header after the headers were checked (smuggling)."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the timer, and check the size of a head that arrived in one piece."""
        if self._is_refused:
            return
        self._stop_timer()
        self._non_body_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._refuse(431)
        elif self.parser.should_upgrade() and self._has_body():
            # The parser reads no body of a request that offers an upgrade: it would be the next request (smuggling).
            self._refuse(501)
        else:
            self._is_in_head = False
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Do not count the frames of chunks: the application limits the body. Count the trailers from zero."""
        self._non_body_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body to the application."""
        if not self._is_refused:
            self._non_body_bytes = max(0, self._non_body_bytes - len(body))
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Reset the counters for the next request on this connection."""
        if self._is_refused:
            return
        super().on_message_complete()
        self._is_in_head = True
        self._has_head_begun = False
        self._non_body_bytes = 0
        self._stop_timer()
        if self.cycle.response_complete:
            self._start_timer()

    def on_response_complete(self) -> None:
        """Start the timer of the rest of the request."""
        super().on_response_complete()
        if not self._is_in_head and self.cycle.response_complete:
            self._start_timer()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text for the client
        """Refuse invalid HTTP. uvicorn would send this response before those of earlier requests (response desync)."""
        self._refuse(400)

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in self.headers
        )

    def _start_timer(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.head_seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        if self._is_in_head:
            self._refuse(408)
        else:
            self.transport.close()

    def _refuse(self, status: int) -> None:
        """Respond with a status and close the connection.

        While an earlier request waits for its response, close without one: the client would take this response for that
        of the earlier request (response desync).
        """
        self._is_refused = True
        self._stop_timer()
        if not self.transport.is_closing():
            if not self._is_earlier_response_pending():
                self.transport.write(f"HTTP/1.1 {status} \r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            self.transport.close()

    def _is_earlier_response_pending(self) -> bool:
        """Return whether a response of an earlier request, or a part of this one's, must come first."""
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]
            return False
        return self._is_in_head or bool(self.pipeline) or self.cycle.response_started
