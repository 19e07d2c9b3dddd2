"""GET /api/failures: list the connections whose reads of Meld failed for good (dead jobs), with the reason.

A failed read need not have a webhook: reconcile, a replay or an operator may have requested it.
"""

from functools import partial

from sqlmodel import col, select

from runtime.database import Database
from schemas.api_queries import FailureQuery
from schemas.api_resources import Failure
from schemas.api_responses import FailurePage
from schemas.tables import ReadRequestRow
from service.http.operation import Operation
from service.http.pagination import PagedList
from service.http.threadpool import ThreadPool

FAILURES = PagedList(
    statement=select(ReadRequestRow).where(col(ReadRequestRow.failed_at).is_not(None)),
    key=col(ReadRequestRow.connection_id),
    query_model=FailureQuery,
    filters={},
    page_model=FailurePage,
    to_item=Failure.from_row,
)


def operations(database: Database, threads: ThreadPool) -> tuple[Operation, ...]:
    """Return the API operations of failures."""
    return (
        FAILURES.operation(
            partial(FAILURES.get_page, database),
            threads,
            path="/api/failures",
            operation_id="listFailures",
            summary="List the connections whose reads failed for good, with the reason, ordered by id.",
        ),
    )
