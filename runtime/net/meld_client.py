"""HTTP client of Meld's connection endpoints: get one connection, list all. Every outcome is a value.

The client only reads. It never calls Meld's ``refresh``, which is chargeable.
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
"""Items on a page: Meld's maximum."""

MAX_EXCERPT_BYTES = 10_000
MAX_EXCERPT_CHARACTERS = 200
_LONG_WORD = re.compile(r"[\w+/=.-]{12,}")
MAX_RETRY_AFTER_SECONDS = 3600.0
"""A longer ``Retry-After`` is cut to this."""


class MeldClient:
    """The part of Meld's API that a mirror needs. Threads share one client.

    Args:
        url: The base URL of the API, without a trailing slash.
        authorization: The exact ``Authorization`` header.
        version: The ``Meld-Version`` header, a date; None for the account's default.
        timeout_seconds: The deadline of one exchange.
        connections: The maximum number of concurrent exchanges.
        clock: Used only for a ``Retry-After`` header that names a date.
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
        # The header without its first word is the key itself, which a server may send back.
        self._key = authorization.get_secret_value().split(" ", 1)[-1]
        if version is not None:
            self._headers["Meld-Version"] = version
        self._seconds = timeout_seconds
        self._client = DeadlineClient(connections=connections)
        self._clock = clock

    @classmethod
    def from_settings(cls, settings: Settings, *, connections: int) -> "MeldClient":
        """Return a client with these settings; the caller has checked the credentials with ``require_settings``."""
        assert settings.authorization is not None
        return cls(
            url=settings.meld_api_url,
            authorization=settings.authorization,
            version=settings.meld_version,
            timeout_seconds=settings.meld_timeout_seconds,
            connections=connections,
        )

    def read(self, connection_id: str) -> ReadOutcome:
        """Read one connection with one GET request. Never raises for what Meld does."""
        response = self._get(f"{self._url}/{_quote_segment(connection_id)}", None, MAX_CONNECTION_BYTES)
        if not isinstance(response, HttpResponse):
            return response
        if response.status in {404, 410}:
            return Absent()
        document = self._document(response)
        if isinstance(document, Unreadable):
            return document
        try:
            snapshot = Snapshot.from_document(redact(document))
        except (ValidationError, RecursionError) as error:
            return Unreadable(_describe_error(error))
        if snapshot.id != connection_id:
            return Unreadable("the response is about another connection")
        return Found(snapshot)

    def page(self, *, after: str | None = None, limit: int = PAGE_LIMIT) -> PageOutcome:
        """Read a page of the list of all connections: ``limit`` items after the key ``after``."""
        query: dict[str, str | int] = {"limit": limit}
        if after is not None:
            query["after"] = after
        response = self._get(self._url, query, MAX_PAGE_BYTES)
        if not isinstance(response, HttpResponse):
            return response
        document = self._document(response)
        if isinstance(document, Unreadable):
            return document
        items = document.get("connections")
        if not isinstance(items, list):
            return Unreadable("the response has no list of connections")
        snapshots = [snapshot for snapshot in map(_parse_item, items) if snapshot is not None]
        remaining, key = document.get("remaining"), _last_key(items)
        if key is None and items and isinstance(remaining, int) and remaining > 0:
            return Unreadable("more connections remain, and no item has a key for the next page")
        # After a full page there may be more, whatever ``remaining`` says. An empty page costs one request, a missed
        # page the rest of the list.
        is_last = not items or (remaining == 0 and len(items) < limit)
        return ListPage(tuple(snapshots), len(items) - len(snapshots), None if is_last else key)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _get(
        self, url: str, query: dict[str, str | int] | None, max_bytes: int
    ) -> HttpResponse | Throttled | Unavailable | Refused:
        try:
            response = self._client.get(
                url, query=query, headers=self._headers, seconds=self._seconds, max_bytes=max_bytes
            )
        except HttpExchangeError as error:
            return Unavailable(str(error))
        if response.status == 429:  # noqa: PLR2004 - a status code
            return Throttled(self._retry_after(response))
        if response.status in {401, 403}:
            return Refused(f"Meld answered {response.status}")
        if response.status not in {200, 404, 410}:
            return Unavailable(f"Meld answered {response.status}", self._retry_after(response))
        return response

    def _document(self, response: HttpResponse) -> dict[str, Any] | Unreadable:
        if response.status != 200:  # noqa: PLR2004 - a status code
            return Unreadable(f"Meld answered {response.status}")
        if response.is_truncated:
            return Unreadable("the response is larger than allowed")
        if response.headers.get("content-encoding", "identity") != "identity":
            return Unreadable("the response is compressed although that was not requested")
        try:
            document = parse_json(response.body)
        except ParseError as error:
            return Unreadable(f"the response is {error}", self._excerpt(response.body))
        if not isinstance(document, dict):
            return Unreadable("the response is JSON but no object")
        return document

    def _excerpt(self, body: bytes) -> str:
        """Return the beginning of an unreadable body. It cannot be redacted as JSON, so every long word is removed."""
        text = clean_text(body[:MAX_EXCERPT_BYTES].decode("utf-8", errors="replace"))
        text = text.replace(self._key, "...") if self._key else text
        return _LONG_WORD.sub("...", text)[:MAX_EXCERPT_CHARACTERS]

    def _retry_after(self, response: HttpResponse) -> float | None:
        seconds = response.retry_after(self._clock())
        return None if seconds is None else min(seconds, MAX_RETRY_AFTER_SECONDS)


def _quote_segment(connection_id: str) -> str:
    """Percent-encode an id for a path. The ids ``.`` and ``..`` would otherwise mean folders."""
    quoted = quote(connection_id, safe="")
    return quoted.replace(".", "%2E") if connection_id in {".", ".."} else quoted


def _parse_item(item: object) -> Snapshot | None:
    try:
        return Snapshot.from_document(redact(item)) if isinstance(item, dict) else None
    except (ValidationError, RecursionError):
        return None


def _last_key(items: list[Any]) -> str | None:
    """Return the key of the last item that has one: an unreadable item must not end the list."""
    keys = (item.get("key") for item in reversed(items) if isinstance(item, dict))
    return next((key for key in keys if isinstance(key, str) and key and clean_text(key) == key), None)


def _describe_error(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "the response is nested too deep"
    fields = ", ".join(str(item["loc"][0]) for item in error.errors(include_input=False, include_url=False))
    return f"the response is not a connection: check {fields}"
