"""HTTP client with a timeout (deadline) for the whole exchange: connect, TLS handshake, headers and body together.

The usual timeouts bound each single wait, so that a server that sends a byte now and then can hold a thread for ever.
Here each wait ends at the deadline of the request at the latest.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ssl import SSLContext
from urllib.parse import urlencode

import httpcore2

from runtime.errors import MeldwatchError

CONNECT_TIMEOUT_SECONDS = 5.0
KEEPALIVE_SECONDS = 20.0


Resolve = Callable[[str, int, float], Sequence[str]]
"""Takes host, port and timeout in seconds; returns the permitted addresses, or raises ``UnsafeUrlError``."""


class HttpExchangeError(MeldwatchError):
    """There was no complete response; the message says why, without the URL's query or any header."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete response. Header names are lower case. ``is_truncated``: the body was longer than allowed."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_truncated: bool

    def retry_after(self, now: datetime) -> float | None:
        """Return the seconds of the ``Retry-After`` header, a number or a date; None without a valid one."""
        value = self.headers.get("retry-after", "").strip()
        try:
            return float(value) if value.isdigit() else max((_parse_date(value) - now).total_seconds(), 0.0)
        except (ValueError, OverflowError):
            return None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    seconds: float
    read_seconds: float
    max_bytes: int


class DeadlineClient:
    """A connection pool, shared by threads. It follows no redirects, and ignores proxies in the environment.

    Args:
        connections: The maximum number of concurrent exchanges.
        resolve: Returns the permitted addresses of a host for each new connection. By default the operating system
            resolves the name, and every address is permitted.
    """

    def __init__(self, *, connections: int, resolve: Resolve | None = None) -> None:
        self._deadline = _Deadline()
        self._connections = connections
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpcore2.default_ssl_context(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=_Backend(self._deadline, resolve),
        )

    def get(
        self,
        url: str,
        *,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str],
        seconds: float,
        max_bytes: int,
    ) -> HttpResponse:
        """Send a GET request and return the response.

        Args:
            url: An absolute URL with a quoted path.
            query: The query parameters.
            headers: The request headers.
            seconds: The deadline of the whole exchange.
            max_bytes: The maximum size of the response body that is read.

        Raises:
            HttpExchangeError: If there was no complete response in time.
        """
        target = f"{url}?{urlencode(query)}" if query else url
        return self._exchange(_Request("GET", target, headers, None, seconds, seconds, max_bytes))

    def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        read_seconds: float,
        max_bytes: int,
    ) -> HttpResponse:
        """Send a POST request and return the response.

        Args:
            url: An absolute URL.
            headers: The request headers.
            body: The request body.
            seconds: The deadline of the whole exchange.
            read_seconds: How long the server may send nothing.
            max_bytes: The maximum size of the response body that is read.

        Raises:
            HttpExchangeError: If there was no complete response in time.
            UnsafeUrlError: If requests to the host are not permitted.
        """
        return self._exchange(_Request("POST", url, headers, body, seconds, read_seconds, max_bytes))

    def _exchange(self, request: _Request) -> HttpResponse:
        self._deadline.start(request.seconds)
        try:
            # The server may just have closed a kept connection, and even all of them.
            for _ in range(self._connections):
                try:
                    return self._send(request)
                except _StaleError:
                    continue
            return self._send(request)
        except httpcore2.TimeoutException:
            raise HttpExchangeError(f"no complete response within {request.seconds:g} s") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, OSError) as error:
            raise HttpExchangeError(f"connection failed ({type(error).__name__})") from None
        except _StaleError:
            raise HttpExchangeError("connection failed (closed by the server)") from None

    def _send(self, request: _Request) -> HttpResponse:
        is_new = False

        def trace(event: str, _info: object) -> None:
            nonlocal is_new
            is_new = is_new or event.startswith("connection.connect_tcp")

        wait = min(request.seconds, request.read_seconds)
        connect = min(CONNECT_TIMEOUT_SECONDS, request.seconds)
        timeout = {"connect": connect, "read": wait, "write": wait, "pool": request.seconds}
        try:
            with self._pool.stream(
                request.method,
                request.url,
                headers=list(request.headers.items()),
                content=request.body,
                extensions={"timeout": timeout, "trace": trace},
            ) as response:
                body, is_truncated = _read_body(response.iter_stream(), request.max_bytes)
                lines = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                return HttpResponse(response.status, lines, body, is_truncated)
        except (httpcore2.ReadError, httpcore2.WriteError, httpcore2.RemoteProtocolError):
            if is_new:
                raise
            raise _StaleError from None

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class _StaleError(Exception):
    """A connection that was kept from an earlier exchange broke."""


def _parse_date(value: str) -> datetime:
    date = parsedate_to_datetime(value)
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _read_body(chunks: Iterable[bytes], max_bytes: int) -> tuple[bytes, bool]:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            return bytes(body[:max_bytes]), True
    return bytes(body), False


class _Deadline(threading.local):
    """The time at which the present exchange of this thread must have ended."""

    at = float("inf")

    def start(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def remaining(self, timeout: float | None, error: type[httpcore2.TimeoutException]) -> float:
        left = min(self.at - time.monotonic(), timeout if timeout is not None else float("inf"))
        if left <= 0:
            raise error
        return left


class _DeadlineStream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.remaining(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.remaining(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = self._deadline.remaining(timeout, httpcore2.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, deadline: _Deadline, resolve: Resolve | None) -> None:
        self._backend = httpcore2.SyncBackend()
        self._deadline = deadline
        self._resolve = resolve

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        left = self._deadline.remaining(timeout, httpcore2.ConnectTimeout)
        addresses = [host] if self._resolve is None else self._resolve(host, port, left)
        # TLS still verifies the name: only the socket is connected to the address.
        for address in addresses[:-1]:
            with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                # An address that does not answer must leave time for the next one.
                share = self._deadline.remaining(timeout, httpcore2.ConnectTimeout) / 2
                return self._connect(address, port, share, local_address, socket_options)
        left = self._deadline.remaining(timeout, httpcore2.ConnectTimeout)
        return self._connect(addresses[-1], port, left, local_address, socket_options)

    def _connect(
        self,
        address: str,
        port: int,
        seconds: float,
        local_address: str | None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None,
    ) -> httpcore2.NetworkStream:
        stream = self._backend.connect_tcp(address, port, seconds, local_address, socket_options)
        return _DeadlineStream(stream, self._deadline)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)
