"""Failures: the connections whose reads were given up, and why; not every one of them has a webhook to show it."""

from sqlmodel import col, select

from runtime.database import Database
from schemas.api_queries import FailureQuery
from schemas.api_resources import Failure
from schemas.api_responses import FailurePage
from schemas.tables import ReadRequestRow
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool


class Failures:
    """The operation on failures.

    Args:
        database: The database.
        threads: Where the work is done.
    """

    def __init__(self, *, database: Database, threads: ThreadPool) -> None:
        self._database = database
        self._threads = threads

    def find(self, query: FailureQuery) -> FailurePage:
        """Return a page of failures, in the order of the connections' ids."""
        statement = (
            select(ReadRequestRow)
            .where(col(ReadRequestRow.failed_at).is_not(None))
            .order_by(col(ReadRequestRow.connection_id))
        )
        if query.after is not None:
            statement = statement.where(col(ReadRequestRow.connection_id) > query.after)
        with self._database.read() as session:
            # One more than the page tells whether there is a next one.
            rows = session.exec(statement.limit(query.limit + 1)).all()
        page = [Failure.from_row(row) for row in rows[: query.limit]]
        return FailurePage(failures=page, next=page[-1].connection_id if len(rows) > query.limit else None)

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked of the API."""
        return (
            Operation(
                method="GET",
                path="/api/failures",
                name="listFailures",
                summary="The connections whose reads were given up, and why, in the order of their ids.",
                need="read",
                query=FailureQuery,
                answers=(ResponseSpec(description="A page of failures.", shape=FailurePage),),
                handle=self._threads.handler(lambda _request, query: self.find(query)),
            ),
        )
