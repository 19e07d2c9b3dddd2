"""Tail: prints the events of a running service as they are committed, over its stream.

It remembers the position that it has come to. So a service that is restarted, or away for a while, is waited for, and
nothing is missing or printed twice.
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
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
"""A stream that is silent for so long is dead, whatever its connection says."""

RETRY_SECONDS = 1.0


class EventTail:
    """Reads the stream of one service, for as long as it takes.

    Args:
        url: Where the service is.
        token: May read.
        query: Which events, and from where on.
        echo: Told each event.
        say: Told, in words, when the service goes away and comes back.
        wait: Waits for so many seconds.
    """

    def __init__(
        self,
        *,
        url: str,
        token: SecretStr,
        query: StreamQuery,
        echo: Callable[[Event], None],
        say: Callable[[str], None],
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._query = query
        self._echo = echo
        self._say = say
        self._wait = wait
        self._position = query.after
        self._is_found = False
        self._is_away = False

    def run(self) -> NoReturn:
        """Follow the feed until something is raised, as Ctrl-C does.

        Raises:
            UsageError: Where the service refuses what is asked, or the token.
            OutOfReachError: Where it does not answer at all. Once it has, it is waited for.
        """
        timeout = httpx2.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
        headers = [(b"Authorization", b"Bearer " + self._token.get_secret_value().encode())]
        with httpx2.Client(headers=headers, timeout=timeout, trust_env=False) as client:
            while True:
                try:
                    self._follow(client)
                except OutOfReachError as error:
                    if not self._is_found:
                        raise
                    self._note_away(str(error))
                self._wait(RETRY_SECONDS)

    def _follow(self, client: httpx2.Client) -> None:
        """Read one stream to its end."""
        try:
            with client.stream("GET", f"{self._url}/api/events/stream", params=self._query_now()) as answer:
                _check(answer, self._url)
                self._note_found()
                for position, data in blocks(answer.iter_bytes()):
                    self._take(position, data)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise UsageError("--url is no URL, such as http://127.0.0.1:8000.") from None
        except httpx2.HTTPError as error:
            name = type(error).__name__
            raise OutOfReachError(f"{self._url} does not answer ({name}). Is the service running there?") from None

    def _query_now(self) -> dict[str, str]:
        query = self._query.model_copy(update={"after": self._position})
        return {name: str(value) for name, value in query.model_dump(exclude_none=True).items()}

    def _take(self, position: int, data: str) -> None:
        if self._position is not None and position < self._position:
            return
        if data and position != self._position:
            self._echo(Event.model_validate_json(data))
        self._position = position

    def _note_found(self) -> None:
        if self._is_away:
            self._say(f"{self._url} is back")
        self._is_found, self._is_away = True, False

    def _note_away(self, why: str) -> None:
        if not self._is_away:
            self._say(f"{why} Trying again until it is back; nothing will be missing.")
        self._is_away = True


def blocks(chunks: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Yield the position and the data of each block of a stream; the data are empty where a block only says where."""
    position, data = None, ""
    for line in _lines(chunks):
        name, _, value = line.partition(": ")
        if name == "id":
            position = int(value)
        elif name == "data":
            data = value
        elif not line and position is not None:
            yield position, data
            position, data = None, ""


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield whole lines. Nothing but a line feed ends one: in an event stands whatever a bank calls itself."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()


def _check(answer: httpx2.Response, url: str) -> None:
    status = answer.status_code
    if status == HTTPStatus.OK and answer.headers.get("content-type", "").startswith(MEDIA_TYPE):
        return
    answer.read()
    if status == HTTPStatus.UNAUTHORIZED:
        raise UsageError(f"{url} does not know the token. Set MELDWATCH_READ_TOKENS to one that it knows.")
    if status in {HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY}:
        raise UsageError(f"{url} answered {status}. {_detail(answer)}".strip())
    raise OutOfReachError(f"{url} answered {status}, and no stream. {_detail(answer)}".strip())


def _detail(answer: httpx2.Response) -> str:
    """Return what the service says of it, if it is ours that says it."""
    try:
        return str(json.loads(answer.content)["detail"])
    except (ValueError, KeyError, TypeError):
        return ""
