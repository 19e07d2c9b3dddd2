"""Client of the event stream (server-sent events) for ``meldwatch events tail``: prints events, and reconnects.

It remembers the position of the last event, and resumes after it when the service is back: no event is missing, and
none is printed twice.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import NoReturn

import httpx2
from pydantic import SecretStr

from runtime.errors import OutOfReachError, UsageError
from schemas.api_queries import StreamQuery
from schemas.events import Event
from service.resources.event_stream import HEARTBEAT_SECONDS, MEDIA_TYPE

CONNECT_SECONDS = 5.0
MAX_SILENCE_SECONDS = 3 * HEARTBEAT_SECONDS
"""Read timeout: without even a heartbeat for this long, the stream is dead, although its connection is open."""

RETRY_SECONDS = 1.0


class EventTail:
    """Follows the event stream of one service until it is interrupted.

    Args:
        url: The URL of the service.
        token: A token with read permission.
        query: The filters, and the position to begin after.
        print_event: Prints an event.
        print_status: Prints a message: the service is away, or back.
        wait: Waits for a number of seconds.
    """

    def __init__(
        self,
        *,
        url: str,
        token: SecretStr,
        query: StreamQuery,
        print_event: Callable[[Event], None],
        print_status: Callable[[str], None],
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._query = query
        self._print_event = print_event
        self._print_status = print_status
        self._wait = wait
        self._position = query.after
        self._has_connected = False
        self._is_away = False

    def run(self) -> NoReturn:
        """Follow the stream until an exception ends it, such as Ctrl-C.

        Raises:
            UsageError: If the service refuses the query or the token.
            OutOfReachError: If the service has never answered. Once it has answered, the tail waits for it.
        """
        timeout = httpx2.Timeout(MAX_SILENCE_SECONDS, connect=CONNECT_SECONDS)
        headers = [(b"Authorization", b"Bearer " + self._token.get_secret_value().encode())]
        with httpx2.Client(headers=headers, timeout=timeout, trust_env=False) as client:
            while True:
                try:
                    self._follow(client)
                except OutOfReachError as error:
                    if not self._has_connected:
                        raise
                    self._on_disconnected(str(error))
                self._wait(RETRY_SECONDS)

    def _follow(self, client: httpx2.Client) -> None:
        """Read one stream until it ends."""
        try:
            with client.stream("GET", f"{self._url}/api/events/stream", params=self._make_params()) as response:
                _check_response(response, self._url)
                self._on_connected()
                for position, data in parse_sse_blocks(response.iter_bytes()):
                    self._handle_block(position, data)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise UsageError("--url is not a URL such as http://127.0.0.1:8000.") from None
        except httpx2.HTTPError as error:
            name = type(error).__name__
            raise OutOfReachError(f"{self._url} does not answer ({name}). Is the service running there?") from None

    def _make_params(self) -> dict[str, str]:
        query = self._query.model_copy(update={"after": self._position})
        return {name: str(value) for name, value in query.model_dump(exclude_none=True).items()}

    def _handle_block(self, position: int, data: str) -> None:
        if self._position is not None and position < self._position:
            return
        if data and position != self._position:
            self._print_event(Event.model_validate_json(data))
        self._position = position

    def _on_connected(self) -> None:
        if self._is_away:
            self._print_status(f"{self._url} is back")
        self._has_connected, self._is_away = True, False

    def _on_disconnected(self, reason: str) -> None:
        if not self._is_away:
            self._print_status(f"{reason} Trying again until it is back; no event will be missing.")
        self._is_away = True


def parse_sse_blocks(chunks: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Yield the position (``id``) and the data of each block. A block without data only sets the position."""
    position, data = None, ""
    for line in _split_lines(chunks):
        name, _, value = line.partition(": ")
        if name == "id":
            position = int(value)
        elif name == "data":
            data = value
        elif not line and position is not None:
            yield position, data
            position, data = None, ""


def _split_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield whole lines. Only a line feed ends one: the name of a bank may contain other line separators."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()


def _check_response(response: httpx2.Response, url: str) -> None:
    status = response.status_code
    if status == HTTPStatus.OK and response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        return
    response.read()
    if status == HTTPStatus.UNAUTHORIZED:
        raise UsageError(f"{url} does not accept the token. Set MELDWATCH_READ_TOKENS to one that it accepts.")
    if status in {HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY}:
        raise UsageError(f"{url} answered {status}. {_get_detail(response)}".strip())
    raise OutOfReachError(f"{url} answered {status} instead of a stream. {_get_detail(response)}".strip())


def _get_detail(response: httpx2.Response) -> str:
    """Return the detail of a problem document; nothing if another program answered."""
    try:
        return str(json.loads(response.content)["detail"])
    except (ValueError, KeyError, TypeError):
        return ""
