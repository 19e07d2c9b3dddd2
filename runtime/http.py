"""HTTP GET with one bound on everything: connect, handshake, headers, body, however slowly they trickle in.

The usual timeouts bound each wait, so a server that sends a byte now and then holds a thread for ever. Here each wait
ends at the request's deadline at the latest.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ssl import SSLContext
from urllib.parse import urlencode

import httpcore2

from runtime.errors import MeldwatchError

CONNECT_SECONDS = 5.0
KEEPALIVE_SECONDS = 20.0


class ExchangeError(MeldwatchError):
    """No answer came; the message says why, without the URL's query or any header."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names are lower case; ``is_cut`` says that the body was longer than allowed."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool


class Exchange:
    """A pool of connections, shared by threads; follows no redirect and heeds no proxy from the environment."""

    def __init__(self, *, connections: int) -> None:
        self._deadline = _Deadline()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpcore2.default_ssl_context(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=_Backend(self._deadline),
        )

    def get(
        self,
        url: str,
        *,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str],
        seconds: float,
        limit: int,
    ) -> Answer:
        """Send a GET and return the answer, at the latest after ``seconds``.

        Args:
            url: An absolute URL, its path already quoted.
            query: Its query.
            headers: Header lines.
            seconds: The bound on the whole exchange.
            limit: Bytes of body to read at most.

        Raises:
            ExchangeError: Where no whole answer came in time.
        """
        target = f"{url}?{urlencode(query)}" if query else url
        self._deadline.set(seconds)
        try:
            try:
                return self._get(target, headers, seconds, limit)
            except (httpcore2.ReadError, httpcore2.WriteError, httpcore2.RemoteProtocolError):
                # A kept connection may have been closed by the other side just now; a new one tells.
                return self._get(target, headers, seconds, limit)
        except httpcore2.TimeoutException:
            raise ExchangeError(f"no whole answer within {seconds:g} s") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, OSError) as error:
            raise ExchangeError(f"connection failed ({type(error).__name__})") from None

    def _get(self, target: str, headers: Mapping[str, str], seconds: float, limit: int) -> Answer:
        timeout = {"connect": min(CONNECT_SECONDS, seconds), "read": seconds, "write": seconds, "pool": seconds}
        with self._pool.stream(
            "GET", target, headers=list(headers.items()), extensions={"timeout": timeout}
        ) as response:
            body, is_cut = _take(response.iter_stream(), limit)
            lines = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            return Answer(response.status, lines, body, is_cut)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


def _take(chunks: Iterable[bytes], limit: int) -> tuple[bytes, bool]:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > limit:
            return bytes(body[:limit]), True
    return bytes(body), False


class _Deadline(threading.local):
    """When the exchange that this thread is in must have ended."""

    at = float("inf")

    def set(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def left(self, timeout: float | None, error: type[httpcore2.TimeoutException]) -> float:
        left = min(self.at - time.monotonic(), timeout if timeout is not None else float("inf"))
        if left <= 0:
            raise error
        return left


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = self._deadline.left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, deadline: _Deadline) -> None:
        self._backend = httpcore2.SyncBackend()
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        left = self._deadline.left(timeout, httpcore2.ConnectTimeout)
        stream = self._backend.connect_tcp(host, port, left, local_address, socket_options)
        return _Stream(stream, self._deadline)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)
