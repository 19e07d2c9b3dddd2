"""The client of Meld's connection endpoints: every answer, or none, becomes a value with a policy of its own.

It only ever reads. Meld's ``refresh`` is chargeable and is never called.
"""

import re
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr, ValidationError

from runtime.clock import Clock, utcnow
from runtime.net.deadline_client import DeadlineClient, HttpExchangeError, HttpResponse
from runtime.security.lenient_json import ParseError, clean_text, parse_json
from runtime.security.redaction import redact
from runtime.settings import Settings
from schemas.meld.connection import Snapshot
from schemas.meld.read_outcome import (
    Absent,
    Found,
    ListPage,
    PageOutcome,
    ReadOutcome,
    Refused,
    Throttled,
    Unavailable,
    Unreadable,
)

MAX_CONNECTION_BYTES = 4 * 1024 * 1024
MAX_PAGE_BYTES = 64 * 1024 * 1024
PAGE_LIMIT = 100
"""Items a page: Meld's maximum."""

MAX_EXCERPT_BYTES = 10_000
MAX_EXCERPT_CHARACTERS = 200
_LONG_WORD = re.compile(r"[\w+/=.-]{12,}")
MAX_RETRY_AFTER_SECONDS = 3600.0
"""More than this is not believed of a ``Retry-After``."""


class MeldClient:
    """Meld's API, as far as a mirror needs it. Threads share one.

    Args:
        url: The API's base, without a slash at its end.
        authorization: The exact ``Authorization`` header.
        version: ``Meld-Version``, a date; None for the account's default.
        timeout_seconds: The bound on one exchange, in all.
        connections: How many exchanges may be under way at once.
        clock: Read only for a ``Retry-After`` that names a time of day.
    """

    def __init__(
        self,
        *,
        url: str,
        authorization: SecretStr,
        version: str | None,
        timeout_seconds: float,
        connections: int,
        clock: Clock = utcnow,
    ) -> None:
        self._url = url + "/bank-linking/connections"
        self._headers = {
            "Authorization": authorization.get_secret_value(),
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "meldwatch",
        }
        # The key itself, which a server may send back: the header without its first word.
        self._key = authorization.get_secret_value().split(" ", 1)[-1]
        if version is not None:
            self._headers["Meld-Version"] = version
        self._seconds = timeout_seconds
        self._exchange = DeadlineClient(connections=connections)
        self._clock = clock

    @classmethod
    def from_settings(cls, settings: Settings, *, connections: int) -> "MeldClient":
        """Return the client that the settings describe; ``require`` has seen to the credentials."""
        assert settings.authorization is not None
        return cls(
            url=settings.meld_api_url,
            authorization=settings.authorization,
            version=settings.meld_version,
            timeout_seconds=settings.meld_timeout_seconds,
            connections=connections,
        )

    def read(self, connection_id: str) -> ReadOutcome:
        """Read one connection: one GET, bounded in time and size. Never raises for what Meld does."""
        answer = self._get(f"{self._url}/{_segment(connection_id)}", None, MAX_CONNECTION_BYTES)
        if not isinstance(answer, HttpResponse):
            return answer
        if answer.status in {404, 410}:
            return Absent()
        document = self._document(answer)
        if isinstance(document, Unreadable):
            return document
        try:
            snapshot = Snapshot.from_document(redact(document))
        except (ValidationError, RecursionError) as error:
            return Unreadable(_why(error))
        if snapshot.id != connection_id:
            return Unreadable("the answer is another connection's")
        return Found(snapshot)

    def page(self, *, after: str | None = None, limit: int = PAGE_LIMIT) -> PageOutcome:
        """Read one page of the list of all connections, of ``limit`` items, behind the key ``after``."""
        query: dict[str, str | int] = {"limit": limit}
        if after is not None:
            query["after"] = after
        answer = self._get(self._url, query, MAX_PAGE_BYTES)
        if not isinstance(answer, HttpResponse):
            return answer
        document = self._document(answer)
        if isinstance(document, Unreadable):
            return document
        items = document.get("connections")
        if not isinstance(items, list):
            return Unreadable("the list has no connections in it")
        snapshots = [snapshot for snapshot in map(_item, items) if snapshot is not None]
        remaining, key = document.get("remaining"), _last_key(items)
        if key is None and items and isinstance(remaining, int) and remaining > 0:
            return Unreadable("more connections remain, and no item has a key to go on after")
        # Behind a full page there may be more, whatever remains: an empty page costs a call, a list cut short its rest.
        is_last = not items or (remaining == 0 and len(items) < limit)
        return ListPage(tuple(snapshots), len(items) - len(snapshots), None if is_last else key)

    def close(self) -> None:
        """Close all connections."""
        self._exchange.close()

    def _get(
        self, url: str, query: dict[str, str | int] | None, limit: int
    ) -> HttpResponse | Throttled | Unavailable | Refused:
        try:
            answer = self._exchange.get(url, query=query, headers=self._headers, seconds=self._seconds, limit=limit)
        except HttpExchangeError as error:
            return Unavailable(str(error))
        if answer.status == 429:  # noqa: PLR2004 - a status code
            return Throttled(self._retry_after(answer))
        if answer.status in {401, 403}:
            return Refused(f"Meld answered {answer.status}")
        if answer.status not in {200, 404, 410}:
            return Unavailable(f"Meld answered {answer.status}", self._retry_after(answer))
        return answer

    def _document(self, answer: HttpResponse) -> dict[str, Any] | Unreadable:
        if answer.status != 200:  # noqa: PLR2004 - a status code
            return Unreadable(f"Meld answered {answer.status}")
        if answer.is_cut:
            return Unreadable("the answer is larger than allowed")
        if answer.headers.get("content-encoding", "identity") != "identity":
            return Unreadable("the answer is compressed although that was not asked for")
        try:
            document = parse_json(answer.body)
        except ParseError as error:
            return Unreadable(f"the answer is {error}", self._evidence(answer.body))
        if not isinstance(document, dict):
            return Unreadable("the answer is JSON but no object")
        return document

    def _evidence(self, body: bytes) -> str:
        """Return the beginning of a body that could not be read, hence not be redacted: nothing that may be a key."""
        text = clean_text(body[:MAX_EXCERPT_BYTES].decode("utf-8", errors="replace"))
        text = text.replace(self._key, "...") if self._key else text
        return _LONG_WORD.sub("...", text)[:MAX_EXCERPT_CHARACTERS]

    def _retry_after(self, answer: HttpResponse) -> float | None:
        seconds = answer.retry_after(self._clock())
        return None if seconds is None else min(seconds, MAX_RETRY_AFTER_SECONDS)


def _segment(connection_id: str) -> str:
    """Quote an id for a path. Alone, dots would be taken for the folders ``.`` and ``..``."""
    quoted = quote(connection_id, safe="")
    return quoted.replace(".", "%2E") if connection_id in {".", ".."} else quoted


def _item(item: object) -> Snapshot | None:
    try:
        return Snapshot.from_document(redact(item)) if isinstance(item, dict) else None
    except (ValidationError, RecursionError):
        return None


def _last_key(items: list[Any]) -> str | None:
    """Return the key of the last item that has one: an item that cannot be read must not end the list."""
    keys = (item.get("key") for item in reversed(items) if isinstance(item, dict))
    return next((key for key in keys if isinstance(key, str) and key and clean_text(key) == key), None)


def _why(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "the answer is nested too deep"
    fields = ", ".join(str(item["loc"][0]) for item in error.errors(include_input=False, include_url=False))
    return f"the answer is no connection: see {fields}"
