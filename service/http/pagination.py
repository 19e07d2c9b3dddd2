"""Pagination of the API's lists: keyset cursor (``after``, ``next``), page size (``limit``), filters and order.

A resource declares its list once, as a ``PagedList``: the statement, the key column that orders it, and for each filter
of its query model the condition on a column. The pager reads one row more than the page holds; if there is one, the
key of the last row of the page is the cursor ``next``. There is no OFFSET: a page begins behind a key, by an index.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import ColumnElement, Integer
from sqlmodel import Session
from sqlmodel.sql.expression import SelectOfScalar

from runtime.database import Database
from schemas.api_queries import PageQuery
from schemas.wire_model import WireModel
from service.http.auth import AccessLevel
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool

RowT = TypeVar("RowT")
QueryT = TypeVar("QueryT", bound=PageQuery)
PageT = TypeVar("PageT", bound=WireModel)

Condition = Callable[[Any], ColumnElement[bool]]
"""Returns the condition on a row for the value of a filter."""

UNFILTERED_FIELDS = frozenset({"limit", "after", "wait"})
"""Query fields that select no rows by their content."""


def equal(column: Any) -> Condition:  # noqa: ANN401 - a table's column
    """Return the filter for rows whose column has the value."""
    return lambda value: cast("ColumnElement[bool]", column == value)


def at_least(column: Any) -> Condition:  # noqa: ANN401 - a table's column
    """Return the filter for rows whose column has the value or a higher one: ``since``."""
    return lambda value: cast("ColumnElement[bool]", column >= value)


def below(column: Any) -> Condition:  # noqa: ANN401 - a table's column
    """Return the filter for rows whose column has a lower value: ``until``."""
    return lambda value: cast("ColumnElement[bool]", column < value)


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedList(Generic[RowT, QueryT, PageT]):
    """The declaration of one list.

    Attributes:
        statement: Selects the rows of the list, without filters, order or limit.
        key: The unique column that orders the list; its value in a row is that row's cursor.
        is_descending: Whether the highest key comes first.
        query_model: The model of the query.
        filters: The condition for each field of the query model that filters.
        page_model: The model of a page: a list of items, and ``next``.
        to_item: Makes an item of a row; None if ``fetch`` is used with something that needs more than the row.
    """

    statement: SelectOfScalar[RowT]
    key: Any
    is_descending: bool = False
    query_model: type[QueryT]
    filters: Mapping[str, Condition]
    page_model: type[PageT]
    to_item: Callable[[RowT], object] | None = None

    def __post_init__(self) -> None:
        declared, wanted = self.filters.keys(), self.query_model.model_fields.keys() - UNFILTERED_FIELDS
        if declared != wanted:
            raise TypeError(f"{self.query_model.__name__} has the filters {sorted(wanted)}, not {sorted(declared)}.")

    def select(self, query: QueryT, after: str | int | None) -> SelectOfScalar[RowT]:
        """Return the statement for all rows that the filters match, in order, behind a cursor."""
        given = ((condition, getattr(query, field)) for field, condition in self.filters.items())
        statement = self.statement.where(*(condition(value) for condition, value in given if value is not None))
        if after is not None:
            statement = statement.where(self._is_behind(after))
        return statement.order_by(self.key.desc() if self.is_descending else self.key.asc())

    def fetch(self, session: Session, query: QueryT) -> tuple[Sequence[RowT], str | None]:
        """Return the rows of a page, and the cursor of the next page; None on the last page."""
        rows = session.exec(self.select(query, getattr(query, "after", None)).limit(query.limit + 1)).all()
        page = rows[: query.limit]
        return page, str(getattr(page[-1], self.key.key)) if len(rows) > query.limit else None

    def page(self, items: Sequence[object], cursor: str | None) -> PageT:
        """Return the page that holds the items and the cursor of the next page."""
        return self.page_model.model_validate({self._items_field(): items, "next": cursor})

    def get_page(self, database: Database, query: QueryT) -> PageT:
        """Return a page of the list."""
        assert self.to_item is not None
        with database.read() as session:
            rows, cursor = self.fetch(session, query)
        return self.page([self.to_item(row) for row in rows], cursor)

    def operation(
        self,
        get_page: Callable[[QueryT], PageT],
        threads: ThreadPool,
        *,
        path: str,
        operation_id: str,
        summary: str,
        access: AccessLevel = "read",
    ) -> Operation:
        """Return the API operation that answers a query with a page.

        Args:
            get_page: Reads a page; blocks.
            threads: Where ``get_page`` runs.
            path: The path of the route.
            operation_id: The unique ``operationId`` of the OpenAPI document.
            summary: What the operation does, in one sentence.
            access: What the caller must prove.
        """
        return Operation(
            method="GET",
            path=path,
            operation_id=operation_id,
            summary=summary,
            access=access,
            query_model=self.query_model,
            responses=(ResponseSpec(description=f"A page of {self._items_field()}.", model=self.page_model),),
            handler=threads.handler(lambda _request, query: get_page(query)),
        )

    def _items_field(self) -> str:
        (name,) = self.page_model.model_fields.keys() - {"next"}
        return name

    def _is_behind(self, cursor: str | int) -> ColumnElement[bool]:
        key = int(cursor) if isinstance(self.key.type, Integer) else cursor
        return cast("ColumnElement[bool]", self.key < key if self.is_descending else self.key > key)
