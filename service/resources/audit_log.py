"""Acts: what operators did, the latest first."""

import operator
from collections.abc import Callable
from typing import Any

from sqlmodel import col, select

from runtime.database import Database
from schemas import tables
from schemas.api_queries import AuditQuery
from schemas.api_resources import Act
from schemas.api_responses import ActPage
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool

FILTERS: tuple[tuple[str, str, Callable[[Any, Any], Any]], ...] = (
    ("act", "act", operator.eq),
    ("who", "who", operator.eq),
    ("connection_id", "connection_id", operator.eq),
    ("since", "at", operator.ge),
    ("until", "at", operator.lt),
)
"""What is asked, of which column, and how the two compare."""


class AuditLog:
    """The operation on acts.

    Args:
        database: The database.
        threads: Where the work is done.
    """

    def __init__(self, *, database: Database, threads: ThreadPool) -> None:
        self._database = database
        self._threads = threads

    def find(self, query: AuditQuery) -> ActPage:
        """Return a page of acts, the latest first."""
        statement = select(tables.AuditRow).order_by(col(tables.AuditRow.id).desc())
        for name, column, compare in FILTERS:
            if (value := getattr(query, name)) is not None:
                statement = statement.where(compare(getattr(tables.AuditRow, column), value))
        if query.after is not None:
            statement = statement.where(col(tables.AuditRow.id) < int(query.after))
        with self._database.read() as session:
            # One more than the page tells whether there is a next one.
            rows = session.exec(statement.limit(query.limit + 1)).all()
        page = [Act.from_row(row) for row in rows[: query.limit]]
        return ActPage(acts=page, next=str(page[-1].id) if len(rows) > query.limit else None)

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked of the API."""
        return (
            Operation(
                method="GET",
                path="/api/audit",
                name="listActs",
                summary="What operators did, with who and when, the latest first.",
                need="admin",
                query=AuditQuery,
                answers=(ResponseSpec(description="A page of acts.", shape=ActPage),),
                handle=self._threads.handler(lambda _request, query: self.find(query)),
            ),
        )
