"""GET /api/connections/{id}/duplicates: show the duplicate group of a connection, and whether its members agree."""

from collections.abc import Mapping

from sqlalchemy import and_, distinct, func, or_
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.api_queries import Query
from schemas.api_responses import DuplicateGroup, DuplicateGroupMember
from schemas.meld.connection import TERMINAL_STATUSES
from schemas.tables import ConnectionRow
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool
from service.resources.connections import not_found

MAX_MEMBERS = 200
"""Members of a group that are shown; Meld's groups have a handful."""

MAX_CUSTOMER_CONNECTIONS = 1000
"""Connections of one customer that are searched for members that the connection does not name."""


def get_duplicate_group(database: Database, connection_id: str) -> DuplicateGroup:
    """Return the group of a connection: those that it names, those that name it, and those that these name.

    Raises:
        NotFoundError: If the mirror does not have the connection.
    """
    with database.read() as session:
        rows = _load_group(session, connection_id)
    if connection_id not in rows:
        raise not_found(connection_id)
    times = [row.grouped_at for row in rows.values() if row is not None and row.grouped_at is not None]
    return DuplicateGroup(
        connection_id=connection_id,
        converged=_is_converged(rows),
        since=max(times, default=None),
        members=[_to_member(id_, row) for id_, row in sorted(rows.items())],
    )


def count_disagreeing_groups(session: Session) -> int:
    """Return the number of connections that a live member names as its primary, but that do not name themselves so."""
    member, primary = aliased(ConnectionRow), aliased(ConnectionRow)
    is_leading = and_(
        col(primary.primary_duplicate_id) == col(primary.id), col(primary.status).not_in(TERMINAL_STATUSES)
    )
    named = (
        select(func.count(distinct(col(member.primary_duplicate_id))))
        .select_from(member)
        .outerjoin(primary, and_(col(primary.id) == col(member.primary_duplicate_id), is_leading))
        .where(
            col(member.primary_duplicate_id).is_not(None),
            col(member.status).not_in(TERMINAL_STATUSES),
            col(primary.id).is_(None),
        )
    )
    return session.exec(named).one()


def operations(database: Database, threads: ThreadPool) -> tuple[Operation, ...]:
    """Return the API operation of duplicate groups."""
    return (
        Operation(
            method="GET",
            path="/api/connections/{id}/duplicates",
            operation_id="getDuplicates",
            summary="Get the duplicate group of a connection, as each of its members reports it.",
            access="read",
            query_model=Query,
            responses=(ResponseSpec(description="The group.", model=DuplicateGroup),),
            handler=threads.handler(lambda request, _query: get_duplicate_group(database, request.path_params["id"])),
        ),
    )


def _load_group(session: Session, connection_id: str) -> dict[str, ConnectionRow | None]:
    """Return the rows of the connections that name this one, and of all that these name, directly or not.

    The row of a connection that the mirror does not have is None. The result is empty if the mirror does not have
    ``connection_id`` itself.
    """
    rows: dict[str, ConnectionRow | None] = {}
    wanted = {connection_id, *_naming(session, connection_id)}
    while wanted and len(rows) < MAX_MEMBERS:
        found = {
            row.id: row for row in session.exec(select(ConnectionRow).where(col(ConnectionRow.id).in_(wanted))).all()
        }
        if connection_id in wanted and connection_id not in found:
            return {}
        rows |= {id_: found.get(id_) for id_ in wanted}
        wanted = {id_ for row in found.values() for id_ in _others(row)} - rows.keys()
    return rows


def _naming(session: Session, connection_id: str) -> list[str]:
    """Return the live connections that name this one, which need not name them. A group belongs to one customer."""
    customer = select(ConnectionRow.customer_id).where(ConnectionRow.id == connection_id).scalar_subquery()
    grouped = select(ConnectionRow.id, ConnectionRow.primary_duplicate_id, ConnectionRow.duplicate_ids).where(
        or_(col(ConnectionRow.primary_duplicate_id) == connection_id, col(ConnectionRow.customer_id) == customer),
        col(ConnectionRow.primary_duplicate_id).is_not(None),
        col(ConnectionRow.status).not_in(TERMINAL_STATUSES),
    )
    rows = session.exec(grouped.limit(MAX_CUSTOMER_CONNECTIONS)).all()
    return [id_ for id_, primary, duplicates in rows if connection_id in {primary, *duplicates}]


def _others(row: ConnectionRow) -> set[str]:
    return {*row.duplicate_ids, row.primary_duplicate_id or row.id} - {row.id}


def _is_converged(rows: Mapping[str, ConnectionRow | None]) -> bool:
    """Return whether all live members name one of them as primary, and name each other. Deleted ones do not count."""
    live = {id_: row for id_, row in rows.items() if row is not None and row.status not in TERMINAL_STATUSES}
    if any(row is None for row in rows.values()):
        return False
    primaries = {row.primary_duplicate_id or row.id for row in live.values()}
    has_one_primary = len(primaries) <= 1 and primaries <= live.keys()
    return has_one_primary and all({row.id, *row.duplicate_ids} >= live.keys() for row in live.values())


def _to_member(connection_id: str, row: ConnectionRow | None) -> DuplicateGroupMember:
    if row is None:
        return DuplicateGroupMember(id=connection_id)
    return DuplicateGroupMember(
        id=row.id,
        status=row.status,
        primary_duplicate_id=row.primary_duplicate_id,
        duplicate_ids=row.duplicate_ids,
        grouped_at=row.grouped_at,
        checked_at=row.checked_at,
    )
