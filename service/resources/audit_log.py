"""GET /api/audit: list the audit entries of operator actions, newest first."""

from functools import partial

from sqlmodel import col, select

from runtime.database import Database
from schemas.api_queries import AuditQuery
from schemas.api_resources import AuditEntry
from schemas.api_responses import AuditPage
from schemas.tables import AuditRow
from service.http.operation import Operation
from service.http.pagination import PagedList, at_least, below, equal
from service.http.threadpool import ThreadPool

AUDIT_ENTRIES = PagedList(
    statement=select(AuditRow),
    key=col(AuditRow.id),
    is_descending=True,
    query_model=AuditQuery,
    filters={
        "act": equal(AuditRow.act),
        "who": equal(AuditRow.who),
        "connection_id": equal(AuditRow.connection_id),
        "since": at_least(AuditRow.at),
        "until": below(AuditRow.at),
    },
    page_model=AuditPage,
    to_item=AuditEntry.from_row,
)


def operations(database: Database, threads: ThreadPool) -> tuple[Operation, ...]:
    """Return the API operations of the audit log."""
    return (
        AUDIT_ENTRIES.operation(
            partial(AUDIT_ENTRIES.get_page, database),
            threads,
            path="/api/audit",
            operation_id="listActs",
            summary="List the actions of operators, newest first.",
            access="admin",
        ),
    )
