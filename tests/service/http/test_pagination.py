from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import col, select

from runtime.database import Database
from schemas.api_queries import PageQuery, RowCursor
from schemas.api_resources import AuditEntry
from schemas.api_responses import AuditPage
from schemas.tables import AuditRow
from service.http.pagination import PagedList, at_least, below, equal
from tests.support import row_factory

START = row_factory.TIME


class Query(PageQuery):
    """A query with one filter of each kind."""

    who: str | None = None
    since: Any = None
    until: Any = None
    after: RowCursor | None = None


FILTERS: dict[str, Callable[[Any], Any]] = {
    "who": equal(AuditRow.who),
    "since": at_least(AuditRow.id),
    "until": below(AuditRow.id),
}


def make_list(**changes: Any) -> PagedList[AuditRow, Query, AuditPage]:
    values: dict[str, Any] = {
        "statement": select(AuditRow),
        "key": col(AuditRow.id),
        "query_model": Query,
        "filters": FILTERS,
        "page_model": AuditPage,
        "to_item": AuditEntry.from_row,
    }
    return PagedList(**{**values, **changes})


@pytest.fixture
def entries(database: Database) -> Database:
    """A database with five audit entries, of two operators in turn."""
    row_factory.store(database, *(AuditRow(at=START, who="ab"[number % 2], act="x", details={}) for number in range(5)))
    return database


def walk(paged: PagedList[AuditRow, Query, AuditPage], database: Database, **query: Any) -> list[list[int]]:
    """Return the ids of all pages."""
    pages, after = [], None
    while True:
        page = paged.get_page(database, Query(after=after, **query))
        pages.append([entry.id for entry in page.acts])
        if page.next is None:
            return pages
        after = page.next


@pytest.mark.parametrize(
    ("is_descending", "limit", "pages"),
    [
        (False, 2, [[1, 2], [3, 4], [5]]),
        (True, 2, [[5, 4], [3, 2], [1]]),
        (False, 5, [[1, 2, 3, 4, 5]]),
        (True, 1, [[5], [4], [3], [2], [1]]),
    ],
)
def test_pages_follow_the_key(entries: Database, limit: int, pages: list[list[int]], *, is_descending: bool) -> None:
    """In either direction each row is on one page; the last page has no cursor, also if it is full."""
    assert walk(make_list(is_descending=is_descending), entries, limit=limit) == pages


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"who": "a"}, [1, 3, 5]),
        ({"since": 2, "until": 4}, [2, 3]),
        ({"who": "b", "since": 3}, [4]),
        ({"who": "nobody"}, []),
    ],
)
def test_filters_hold_on_every_page(entries: Database, query: dict[str, Any], ids: list[int]) -> None:
    """All given filters must match, on each page."""
    pages = walk(make_list(), entries, limit=2, **query)

    assert [id_ for page in pages for id_ in page] == ids


@pytest.mark.parametrize("filters", [{}, {**FILTERS, "unknown": equal(AuditRow.act)}])
def test_filters_must_be_those_of_the_query(filters: dict[str, Any]) -> None:
    """A filter of the query without a condition, or a condition without a field, is an error of the declaration."""
    with pytest.raises(TypeError, match="Query has the filters"):
        make_list(filters=filters)
