"""Connections: the mirror, page by page or one by one, and an operator's wish to have one read again."""

from collections.abc import Callable, Collection

from sqlalchemy import or_
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from runtime import audit
from runtime.database import Database
from runtime.queues.reads import raise_jobs
from schemas import tables
from schemas.api_queries import ConnectionQuery, Query
from schemas.api_resources import Connection
from schemas.api_responses import ConnectionPage, RefreshReceipt
from service.errors import UnknownError
from service.http.auth import who_of
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool

FILTERS = ("status", "customer_id", "external_customer_id", "institution_id")


class Connections:
    """The operations on connections.

    Args:
        database: The database.
        threads: Where the work is done.
        wake: Told which connections' workers to call.
    """

    def __init__(self, *, database: Database, threads: ThreadPool, wake: Callable[[Collection[str]], None]) -> None:
        self._database = database
        self._threads = threads
        self._wake = wake

    def find(self, query: ConnectionQuery) -> ConnectionPage:
        """Return a page of connections, in the order of their ids."""
        statement = _rows().order_by(col(tables.ConnectionRow.id))
        for name in FILTERS:
            if (value := getattr(query, name)) is not None:
                statement = statement.where(getattr(tables.ConnectionRow, name) == value)
        if query.after is not None:
            statement = statement.where(col(tables.ConnectionRow.id) > query.after)
        with self._database.read() as session:
            # One more than the page tells whether there is a next one.
            rows = session.exec(statement.limit(query.limit + 1)).all()
        page = [Connection.from_row(row) for row in rows[: query.limit]]
        return ConnectionPage(connections=page, next=page[-1].id if len(rows) > query.limit else None)

    def get(self, connection_id: str) -> Connection:
        """Return one connection.

        Raises:
            UnknownError: Where the mirror does not have it.
        """
        with self._database.read() as session:
            row = session.exec(_rows().where(tables.ConnectionRow.id == connection_id)).one_or_none()
        if row is None:
            raise unknown(connection_id)
        return Connection.from_row(row)

    def refresh(self, connection_id: str, *, who: str) -> RefreshReceipt:
        """Ask for a read of Meld, and have a worker called once that is committed.

        Args:
            connection_id: The connection.
            who: The operator.

        Raises:
            UnknownError: Where neither the mirror nor any job has it.
        """
        with self._database.write() as session:
            if not is_known(session, connection_id):
                raise unknown(connection_id)
            called = raise_jobs(self._database, session, [connection_id], "operator")
            audit.note(self._database, session, who=who, act="connection.refreshed", connection_id=connection_id)
        self._wake(called)
        return RefreshReceipt(connection_id=connection_id)

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked of the API."""
        return (
            Operation(
                method="GET",
                path="/api/connections",
                name="listConnections",
                summary="The connections of the mirror, in the order of their ids.",
                need="read",
                query=ConnectionQuery,
                answers=(ResponseSpec(description="A page of connections.", shape=ConnectionPage),),
                handle=self._threads.handler(lambda _request, query: self.find(query)),
            ),
            Operation(
                method="GET",
                path="/api/connections/{id}",
                name="getConnection",
                summary="One connection of the mirror.",
                need="read",
                query=Query,
                answers=(ResponseSpec(description="The connection.", shape=Connection),),
                handle=self._threads.handler(lambda request, _query: self.get(request.path_params["id"])),
            ),
            Operation(
                method="POST",
                path="/api/connections/{id}/refresh",
                name="refreshConnection",
                summary="Ask for the connection to be read again from Meld; never Meld's chargeable refresh.",
                need="admin",
                query=Query,
                answers=(ResponseSpec(status=202, description="It will be read soon.", shape=RefreshReceipt),),
                handle=self._threads.handler(
                    lambda request, _query: self.refresh(request.path_params["id"], who=who_of(request)), status=202
                ),
            ),
        )


def _rows() -> SelectOfScalar[tables.ConnectionRow]:
    """Select without Meld's whole answer, which is never sent out."""
    return select(tables.ConnectionRow).options(defer(tables.ConnectionRow.document, raiseload=True))  # type: ignore[arg-type]


def is_known(session: Session, connection_id: str) -> bool:
    """Return whether the mirror or any job has the connection."""
    is_mirrored = select(tables.ConnectionRow.id).where(tables.ConnectionRow.id == connection_id).exists()
    has_job = (
        select(tables.ReadRequestRow.connection_id).where(tables.ReadRequestRow.connection_id == connection_id).exists()
    )
    return bool(session.exec(select(or_(is_mirrored, has_job))).one())


def unknown(connection_id: str) -> UnknownError:
    """Return the error for a connection that nothing has."""
    return UnknownError(f"No connection {connection_id[:100]!r} is known. See /api/connections for those that are.")
