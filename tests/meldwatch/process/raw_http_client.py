"""An HTTP/1.1 client on bytes: it sends requests that no library would send, and shows the exact response."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from starlette.types import ASGIApp

from meldwatch.process.http_protocol import BoundedHttpProtocol
from meldwatch.process.http_server import HttpServer

TIMEOUT_SECONDS = 4.0


@dataclass(frozen=True)
class Answer:
    """A response as received."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One TCP connection to a server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._socket.sendall(data)

    def send_until_closed(self, data: bytes) -> None:
        """Send bytes until the server closes the connection."""
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def is_open(self) -> bool:
        """Send another byte, and return whether the connection is still open."""
        try:
            self._socket.sendall(b"y")
        except ConnectionError:
            return False
        return True

    def answer(self) -> Answer:
        """Read one response, with a body of known length."""
        head, _, rest = self._until(b"\r\n\r\n").partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        self._received = rest
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(first.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Wait, and return whether the server closes the connection without another byte."""
        try:
            return not self._received and self._socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def is_silent(self, seconds: float) -> bool:
        """Return whether the server sends nothing and keeps the connection open for some seconds."""
        self._socket.settimeout(seconds)
        try:
            self._received += self._socket.recv(1)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(TIMEOUT_SECONDS)
        return False

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._receive()
        return self._received

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise EOFError(f"the connection was closed after {self._received!r}")
        self._received += data


def request(body: bytes = b"", *lines: str, method: str = "POST", path: str = "/webhooks/meld") -> bytes:
    """Return a request, with the right Content-Length unless a line sets another."""
    named = {line.partition(":")[0].lower() for line in lines}
    usual = [] if named & {"content-length", "transfer-encoding"} else [f"Content-Length: {len(body)}"]
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *lines, *usual])
    return head.encode("latin-1") + b"\r\n\r\n" + body


@contextlib.contextmanager
def serving(app: ASGIApp, *, protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol) -> Iterator[str]:
    """Serve an application on the loopback; yields its URL."""
    server = HttpServer(app, host="127.0.0.1", port=0, on_stop=lambda: None, protocol=protocol)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
