"""Meld's list of connections: filters, a cursor by key, pages; newest first."""

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
    from simulator.world.register import Register

DEFAULT_LIMIT = 10
GREATEST_LIMIT = 100
KEY_PREFIX = "connection:"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """What a caller asks the list for; after and before are positions, None for an end of the list."""

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
    def filters(self) -> bool:
        """Whether it leaves anything out."""
        named = (self.customer_id, self.external_customer_id, self.institution_id, self.start_date, self.end_date)
        return any(named) or bool(self.statuses or self.providers)

    def accepts(self, connection: SimulatedConnection) -> bool:
        """Whether a connection passes every filter."""
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
    """One page: the positions on it, and how many more follow in the direction of travel."""

    numbers: tuple[int, ...]
    remaining: int


def parse(params: Mapping[str, str]) -> ListQuery:
    """The query of a URL, or MalformedError."""
    if params.get("after") and params.get("before"):
        raise MalformedError("[after] and [before] exclude each other")
    return ListQuery(
        customer_id=params.get("customerId") or None,
        external_customer_id=params.get("externalCustomerId") or None,
        institution_id=params.get("institutionId") or None,
        statuses=_words(params.get("statuses")),
        providers=_words(params.get("serviceProviders")),
        start_date=_date("startDate", params.get("startDate")),
        end_date=_date("endDate", params.get("endDate")),
        after=_position("after", params.get("after")),
        before=_position("before", params.get("before")),
        limit=_limit(params.get("limit")),
    )


def page(register: Register, query: ListQuery, *, deleted_gone: bool, shift: int = 0) -> ListedPage:
    """The page that a query asks for; a shift moves its start, as changes to the list between two pages do."""
    matches: Sequence[int] = _course(len(register), query, shift)
    if query.filters or deleted_gone:
        matches = [number for number in matches if _listed(register.numbered(number), query, gone=deleted_gone)]
    taken = matches[: query.limit]
    return ListedPage(numbers=tuple(sorted(taken, reverse=True)), remaining=len(matches) - len(taken))


def key(number: int) -> str:
    """The opaque cursor of a position."""
    return urlsafe_b64encode(f"{KEY_PREFIX}{number}".encode()).decode()


def _course(length: int, query: ListQuery, shift: int) -> range:
    if query.before is not None:
        return range(max(query.before + 1 - shift, 1), length + 1)
    first = length if query.after is None else query.after - 1 + shift
    return range(min(first, length), 0, -1)


def _listed(connection: SimulatedConnection, query: ListQuery, *, gone: bool) -> bool:
    return query.accepts(connection) and not (gone and connection.state.status == DELETED.status)


def _words(value: str | None) -> frozenset[str]:
    return frozenset(word.strip() for word in (value or "").split(",") if word.strip())


def _date(name: str, value: str | None) -> date | None:
    try:
        return date.fromisoformat(value) if value else None
    except ValueError:
        raise MalformedError(f"[{name}] Must be a date: yyyy-mm-dd") from None


def _limit(value: str | None) -> int:
    if value is None:
        return DEFAULT_LIMIT
    if not value.isdecimal() or not 1 <= int(value) <= GREATEST_LIMIT:
        raise MalformedError(f"[limit] Must be between 1 and {GREATEST_LIMIT}")
    return int(value)


def _position(name: str, value: str | None) -> int | None:
    if not value:
        return None
    try:
        text = urlsafe_b64decode(value.encode()).decode()
    except ValueError:
        text = ""
    digits = text.removeprefix(KEY_PREFIX)
    if not text.startswith(KEY_PREFIX) or not digits.isdecimal():
        raise MalformedError(f"[{name}] Must be the key of a connection in a list")
    return int(digits)
