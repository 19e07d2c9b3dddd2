"""GET /api/connections, GET /api/connections/{id}: list and show connections; POST .../refresh: request a read."""

from collections.abc import Callable, Collection
from functools import partial

from sqlalchemy import or_
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from runtime import audit
from runtime.database import Database
from runtime.queues.reads import request_reads
from schemas.api_queries import ConnectionQuery, Query
from schemas.api_resources import Connection
from schemas.api_responses import ConnectionPage, RefreshReceipt
from schemas.tables import ConnectionRow, ReadRequestRow
from service.errors import NotFoundError
from service.http.auth import caller_name
from service.http.operation import Operation, ResponseSpec
from service.http.pagination import PagedList, equal
from service.http.threadpool import ThreadPool


def select_connections() -> SelectOfScalar[ConnectionRow]:
    """Return a query for connections without Meld's whole answer, which is never sent out."""
    return select(ConnectionRow).options(defer(ConnectionRow.document, raiseload=True))  # type: ignore[arg-type]


CONNECTIONS = PagedList(
    statement=select_connections(),
    key=col(ConnectionRow.id),
    query_model=ConnectionQuery,
    filters={
        "status": equal(ConnectionRow.status),
        "customer_id": equal(ConnectionRow.customer_id),
        "external_customer_id": equal(ConnectionRow.external_customer_id),
        "institution_id": equal(ConnectionRow.institution_id),
    },
    page_model=ConnectionPage,
    to_item=Connection.from_row,
)


def get_connection(database: Database, connection_id: str) -> Connection:
    """Return one connection of the mirror.

    Raises:
        NotFoundError: If the mirror does not have it.
    """
    with database.read() as session:
        row = session.exec(select_connections().where(ConnectionRow.id == connection_id)).one_or_none()
    if row is None:
        raise not_found(connection_id)
    return Connection.from_row(row)


def request_refresh(
    database: Database, connection_id: str, *, notify_workers: Callable[[Collection[str]], None], who: str
) -> RefreshReceipt:
    """Request a read of Meld for a connection, with an audit entry, and notify a worker after the commit.

    Args:
        database: The database.
        connection_id: The connection.
        notify_workers: Notifies the workers of connections.
        who: The operator.

    Raises:
        NotFoundError: If neither the mirror nor the queue of reads has the connection.
    """
    with database.write() as session:
        if not is_known(session, connection_id):
            raise not_found(connection_id)
        requested = request_reads(database, session, [connection_id], "operator")
        audit.append_entry(database, session, who=who, act="connection.refreshed", connection_id=connection_id)
    notify_workers(requested)
    return RefreshReceipt(connection_id=connection_id)


def operations(
    database: Database, threads: ThreadPool, notify_workers: Callable[[Collection[str]], None]
) -> tuple[Operation, ...]:
    """Return the API operations of connections."""
    return (
        CONNECTIONS.operation(
            partial(CONNECTIONS.get_page, database),
            threads,
            path="/api/connections",
            operation_id="listConnections",
            summary="List the connections of the mirror, ordered by id.",
        ),
        Operation(
            method="GET",
            path="/api/connections/{id}",
            operation_id="getConnection",
            summary="Get one connection of the mirror.",
            access="read",
            query_model=Query,
            responses=(ResponseSpec(description="The connection.", model=Connection),),
            handler=threads.handler(lambda request, _query: get_connection(database, request.path_params["id"])),
        ),
        Operation(
            method="POST",
            path="/api/connections/{id}/refresh",
            operation_id="refreshConnection",
            summary="Request a read of the connection from Meld. Does not use Meld's chargeable refresh.",
            access="admin",
            query_model=Query,
            responses=(
                ResponseSpec(
                    status=202, description="The read is requested; a worker does it soon.", model=RefreshReceipt
                ),
            ),
            handler=threads.handler(
                lambda request, _query: request_refresh(
                    database, request.path_params["id"], notify_workers=notify_workers, who=caller_name(request)
                ),
                status=202,
            ),
        ),
    )


def is_known(session: Session, connection_id: str) -> bool:
    """Return whether the mirror or the queue of reads has the connection."""
    is_mirrored = select(ConnectionRow.id).where(ConnectionRow.id == connection_id).exists()
    is_requested = select(ReadRequestRow.connection_id).where(ReadRequestRow.connection_id == connection_id).exists()
    return bool(session.exec(select(or_(is_mirrored, is_requested))).one())


def not_found(connection_id: str) -> NotFoundError:
    """Return the error for an unknown connection."""
    return NotFoundError(f"No connection {connection_id[:100]!r} is known. List the known ones with /api/connections.")
