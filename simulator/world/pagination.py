"""Pagination of Meld's list of connections: filters, keyset cursors, pages, newest first."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from simulator.errors import MalformedError
from simulator.world.vocabulary import DELETED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulator.world.connection import SimulatedConnection
    from simulator.world.connection_store import ConnectionStore

DEFAULT_LIMIT = 10
MAX_LIMIT = 100
CURSOR_PREFIX = "connection:"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Filters and position of a list request; after and before are connection numbers, None for an end of the list."""

    customer_id: str | None = None
    external_customer_id: str | None = None
    institution_id: str | None = None
    statuses: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    start_date: date | None = None
    end_date: date | None = None
    after: int | None = None
    before: int | None = None
    limit: int = DEFAULT_LIMIT

    @property
    def has_filters(self) -> bool:
        """Whether any filter is set."""
        named = (self.customer_id, self.external_customer_id, self.institution_id, self.start_date, self.end_date)
        return any(named) or bool(self.statuses or self.providers)

    def matches(self, connection: SimulatedConnection) -> bool:
        """Return whether a connection passes every filter."""
        institution_id = connection.institution.id if connection.institution else None
        created_on = connection.created_at.date()
        return (
            self.customer_id in (None, connection.customer_id)
            and self.external_customer_id in (None, connection.external_customer_id)
            and self.institution_id in (None, institution_id)
            and (not self.statuses or connection.state.status in self.statuses)
            and (not self.providers or connection.provider in self.providers)
            and (self.start_date is None or self.start_date <= created_on)
            and (self.end_date is None or created_on <= self.end_date)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPage:
    """One page: the connection numbers on it, and how many more follow in the direction of the request."""

    numbers: tuple[int, ...]
    remaining: int


def parse_list_query(params: Mapping[str, str]) -> ListQuery:
    """Parse the query parameters of a list request.

    Raises:
        MalformedError: A cursor, limit or date is invalid, or both cursors are given.
    """
    if params.get("after") and params.get("before"):
        raise MalformedError("[after] and [before] exclude each other")
    return ListQuery(
        customer_id=params.get("customerId") or None,
        external_customer_id=params.get("externalCustomerId") or None,
        institution_id=params.get("institutionId") or None,
        statuses=_comma_separated(params.get("statuses")),
        providers=_comma_separated(params.get("serviceProviders")),
        start_date=_date("startDate", params.get("startDate")),
        end_date=_date("endDate", params.get("endDate")),
        after=_decode_cursor("after", params.get("after")),
        before=_decode_cursor("before", params.get("before")),
        limit=_limit(params.get("limit")),
    )


def paginate(store: ConnectionStore, query: ListQuery, *, deleted_gone: bool, shift: int = 0) -> ListedPage:
    """Select a page; a shift moves its start, as changes to the list between two requests would."""
    matches: Sequence[int] = _candidates(len(store), query, shift)
    if query.has_filters or deleted_gone:
        matches = [number for number in matches if _is_listed(store.by_number(number), query, gone=deleted_gone)]
    selected = matches[: query.limit]
    return ListedPage(numbers=tuple(sorted(selected, reverse=True)), remaining=len(matches) - len(selected))


def encode_cursor(number: int) -> str:
    """Return the opaque cursor of a connection number."""
    return urlsafe_b64encode(f"{CURSOR_PREFIX}{number}".encode()).decode()


def _candidates(length: int, query: ListQuery, shift: int) -> range:
    if query.before is not None:
        return range(max(query.before + 1 - shift, 1), length + 1)
    first = length if query.after is None else query.after - 1 + shift
    return range(min(first, length), 0, -1)


def _is_listed(connection: SimulatedConnection, query: ListQuery, *, gone: bool) -> bool:
    return query.matches(connection) and not (gone and connection.state.status == DELETED.status)


def _comma_separated(value: str | None) -> frozenset[str]:
    return frozenset(part.strip() for part in (value or "").split(",") if part.strip())


def _date(name: str, value: str | None) -> date | None:
    try:
        return date.fromisoformat(value) if value else None
    except ValueError:
        raise MalformedError(f"[{name}] Must be a date: yyyy-mm-dd") from None


def _limit(value: str | None) -> int:
    if value is None:
        return DEFAULT_LIMIT
    if not value.isdecimal() or not 1 <= int(value) <= MAX_LIMIT:
        raise MalformedError(f"[limit] Must be between 1 and {MAX_LIMIT}")
    return int(value)


def _decode_cursor(name: str, value: str | None) -> int | None:
    if not value:
        return None
    try:
        text = urlsafe_b64decode(value.encode()).decode()
    except ValueError:
        text = ""
    digits = text.removeprefix(CURSOR_PREFIX)
    if not text.startswith(CURSOR_PREFIX) or not digits.isdecimal():
        raise MalformedError(f"[{name}] Must be the key of a connection in a list")
    return int(digits)
