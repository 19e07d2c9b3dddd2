"""HTTP/1.1 with bounds on everything about a request but its body.

uvicorn bounds neither the size of a head nor its time, nor what a client may send behind an answer: a slow sender, or
one whose headers or trailers never end, would hold a connection and memory for ever.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 32 * 1024
HEAD_SECONDS = 10.0


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, which ends a connection whose request head is too long (431) or too slow (408).

    The application bounds the time and the size of a body that it reads. What nobody reads must be in soon after the
    answer; trailers are dropped, and are bounded as a head is.

    Attributes:
        head_seconds: How long a request's head may take, and what is left of a body behind its answer.
    """

    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - handed through
        super().__init__(*args, **kwargs)
        self._beside_body = 0
        self._is_in_head = True
        self._has_begun = False
        self._is_refused = False
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
        """Count what belongs to no body; nothing that follows a refusal is read."""
        if self._is_refused:
            return
        self._beside_body += len(data)
        super().data_received(data)
        if self._is_in_head and (self._has_begun or self._beside_body):
            self._start_timer()
        if self._beside_body > LONGEST_HEAD:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self._has_begun = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, drop a trailer: behind the body nothing can be said that was not bounded and checked."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the clock. A head that came in one piece is measured here."""
        if self._is_refused:
            return
        self._stop_timer()
        self._beside_body = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > LONGEST_HEAD:
            self._refuse(431)
        elif self.parser.should_upgrade() and self._announces_body():
            # The parser takes no body of a request that offers an upgrade: it would read it as the next request.
            self._refuse(501)
        else:
            self._is_in_head = False
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Forgive a chunk its frame: the body is bounded elsewhere. What follows the last chunk is counted anew."""
        self._beside_body = 0

    def on_body(self, body: bytes) -> None:
        """Hand the body on."""
        if not self._is_refused:
            self._beside_body = max(0, self._beside_body - len(body))
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin anew, for the next request on this connection."""
        if self._is_refused:
            return
        super().on_message_complete()
        self._is_in_head = True
        self._has_begun = False
        self._beside_body = 0
        self._stop_timer()
        if self.cycle.response_complete:
            self._start_timer()

    def on_response_complete(self) -> None:
        """Start the clock where the request is not over yet."""
        super().on_response_complete()
        if not self._is_in_head and self.cycle.response_complete:
            self._start_timer()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words for the sender
        """Refuse what is no HTTP. uvicorn would answer it before the earlier requests that still wait."""
        self._refuse(400)

    def _announces_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in self.headers
        )

    def _start_timer(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self._is_in_head:
            self._refuse(408)
        else:
            self.transport.close()

    def _refuse(self, status: int) -> None:
        """Answer, and end the connection. Earlier requests that wait for their answers get these, and then it ends."""
        self._is_refused = True
        self._stop_timer()
        if self._is_in_head and self._is_busy():
            self.cycle.keep_alive = False
        elif not self.transport.is_closing():
            if not self._is_busy() or not (self.pipeline or self.cycle.response_started):
                self.transport.write(f"HTTP/1.1 {status} \r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            self.transport.close()

    def _is_busy(self) -> bool:
        """Return whether the last request whose head is complete waits for its answer, or for its answer's end."""
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]
