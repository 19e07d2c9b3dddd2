"""Rejections: the refused webhooks that were kept, told without the body and the signature."""

import operator
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import defer
from sqlmodel import col, select

from runtime.database import Database
from schemas import tables
from schemas.api_queries import RejectionQuery
from schemas.api_resources import Rejection
from schemas.api_responses import RejectionPage
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool
from service.ingest.signature import SIGNATURE
from service.rejected.store import is_whole

FILTERS: tuple[tuple[str, str, Callable[[Any, Any], Any]], ...] = (
    ("reason", "reason", operator.eq),
    ("since", "received_at", operator.ge),
    ("until", "received_at", operator.lt),
)
"""What is asked, of which column, and how the two compare."""


class Rejections:
    """The operation on refused webhooks.

    Args:
        database: The database.
        threads: Where the work is done.
    """

    def __init__(self, *, database: Database, threads: ThreadPool) -> None:
        self._database = database
        self._threads = threads

    def find(self, query: RejectionQuery) -> RejectionPage:
        """Return a page of them, in the order in which they first came."""
        unsent = defer(tables.RejectionRow.body, raiseload=True)  # type: ignore[arg-type]
        statement = select(tables.RejectionRow).options(unsent).order_by(col(tables.RejectionRow.id))
        for name, column, compare in FILTERS:
            if (value := getattr(query, name)) is not None:
                statement = statement.where(compare(getattr(tables.RejectionRow, column), value))
        if query.state is not None:
            is_admitted = col(tables.RejectionRow.admitted_at).is_not(None)
            statement = statement.where(is_admitted if query.state == "admitted" else ~is_admitted)
        if query.after is not None:
            statement = statement.where(col(tables.RejectionRow.id) > int(query.after))
        with self._database.read() as session:
            # One more than the page tells whether there is a next one.
            rows = session.exec(statement.limit(query.limit + 1)).all()
        page = [told(row) for row in rows[: query.limit]]
        return RejectionPage(rejections=page, next=str(page[-1].id) if len(rows) > query.limit else None)

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked of the API."""
        return (
            Operation(
                method="GET",
                path="/api/rejections",
                name="listRejections",
                summary="Refused webhooks, as far as they were kept, in the order in which they first came.",
                need="read",
                query=RejectionQuery,
                answers=(ResponseSpec(description="A page of refused webhooks.", shape=RejectionPage),),
                handle=self._threads.handler(lambda _request, query: self.find(query)),
            ),
        )


def told(row: tables.RejectionRow) -> Rejection:
    """Return what is told of a row. Of the headers all but the signature: whoever has it could send the webhook."""
    computed: dict[str, Any] = {
        "state": "admitted" if row.admitted_at is not None else "refused",
        "likely": row.is_likely,
        "whole": is_whole(row.size),
        "headers": {name: value for name, value in row.headers.items() if name != SIGNATURE.decode()},
    }
    same = {name: getattr(row, name) for name in Rejection.model_fields if name not in computed}
    return Rejection.model_validate({**same, **computed})
