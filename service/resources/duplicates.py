"""Duplicates: a connection's group as each of its members sees it, and whether they agree."""

from collections.abc import Mapping

from sqlalchemy import and_, distinct, func, or_
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.api_queries import Query
from schemas.api_responses import Group, Member
from schemas.meld.connection import TERMINAL
from schemas.tables import ConnectionRow
from service.errors import UnknownError
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool

MOST_MEMBERS = 200
"""Members that are shown; Meld's groups have a handful."""

MOST_OF_A_CUSTOMER = 1000
"""Connections of one customer that are looked through for members that are not named."""


class Duplicates:
    """The operation on groups.

    Args:
        database: The database.
        threads: Where the work is done.
    """

    def __init__(self, *, database: Database, threads: ThreadPool) -> None:
        self._database = database
        self._threads = threads

    def get(self, connection_id: str) -> Group:
        """Return the group of a connection: all that it names or that name it, and all that those name.

        Raises:
            UnknownError: Where the mirror does not have it.
        """
        with self._database.read() as session:
            rows = _gather(session, connection_id)
        if connection_id not in rows:
            raise UnknownError(f"No connection {connection_id[:100]!r} is known. See /api/connections.")
        group = {id_: row for id_, row in sorted(rows.items()) if row is not None}
        times = [row.grouped_at for row in group.values() if row.grouped_at is not None]
        return Group(
            connection_id=connection_id,
            converged=_is_converged(rows),
            since=max(times, default=None),
            members=[_member(id_, row) for id_, row in sorted(rows.items())],
        )

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked of the API."""
        return (
            Operation(
                method="GET",
                path="/api/connections/{id}/duplicates",
                name="getDuplicates",
                summary="The duplicate group of a connection, as each of its members sees it.",
                need="read",
                query=Query,
                answers=(ResponseSpec(description="The group.", shape=Group),),
                handle=self._threads.handler(lambda request, _query: self.get(request.path_params["id"])),
            ),
        )


def _gather(session: Session, connection_id: str) -> dict[str, ConnectionRow | None]:
    """Return the rows of who names the connection, and of everything that these name, directly or not.

    A connection that was never seen has None; there are no rows at all where the one that is asked for was not.
    """
    rows: dict[str, ConnectionRow | None] = {}
    wanted = {connection_id, *_naming(session, connection_id)}
    while wanted and len(rows) < MOST_MEMBERS:
        found = {
            row.id: row for row in session.exec(select(ConnectionRow).where(col(ConnectionRow.id).in_(wanted))).all()
        }
        if connection_id in wanted and connection_id not in found:
            return {}
        rows |= {id_: found.get(id_) for id_ in wanted}
        wanted = {id_ for row in found.values() for id_ in _others(row)} - rows.keys()
    return rows


def _naming(session: Session, connection_id: str) -> list[str]:
    """Return the living that name a connection, which need not name them: a group is of one customer."""
    customer = select(ConnectionRow.customer_id).where(ConnectionRow.id == connection_id).scalar_subquery()
    grouped = select(ConnectionRow.id, ConnectionRow.primary_duplicate_id, ConnectionRow.duplicate_ids).where(
        or_(col(ConnectionRow.primary_duplicate_id) == connection_id, col(ConnectionRow.customer_id) == customer),
        col(ConnectionRow.primary_duplicate_id).is_not(None),
        col(ConnectionRow.status).not_in(TERMINAL),
    )
    rows = session.exec(grouped.limit(MOST_OF_A_CUSTOMER)).all()
    return [id_ for id_, primary, duplicates in rows if connection_id in {primary, *duplicates}]


def _others(row: ConnectionRow) -> set[str]:
    return {*row.duplicate_ids, row.primary_duplicate_id or row.id} - {row.id}


def _is_converged(rows: Mapping[str, ConnectionRow | None]) -> bool:
    """Return whether all living members name one of them as primary, and each other; the dead have nothing to say."""
    living = {id_: row for id_, row in rows.items() if row is not None and row.status not in TERMINAL}
    if any(row is None for row in rows.values()):
        return False
    primaries = {row.primary_duplicate_id or row.id for row in living.values()}
    is_led = len(primaries) <= 1 and primaries <= living.keys()
    return is_led and all({row.id, *row.duplicate_ids} >= living.keys() for row in living.values())


def count_not_converged(session: Session) -> int:
    """Return how many connections a living member names as its primary that lead no group by their own row."""
    member, primary = aliased(ConnectionRow), aliased(ConnectionRow)
    leads = and_(col(primary.primary_duplicate_id) == col(primary.id), col(primary.status).not_in(TERMINAL))
    named = (
        select(func.count(distinct(col(member.primary_duplicate_id))))
        .select_from(member)
        .outerjoin(primary, and_(col(primary.id) == col(member.primary_duplicate_id), leads))
        .where(
            col(member.primary_duplicate_id).is_not(None),
            col(member.status).not_in(TERMINAL),
            col(primary.id).is_(None),
        )
    )
    return session.exec(named).one()


def _member(connection_id: str, row: ConnectionRow | None) -> Member:
    if row is None:
        return Member(id=connection_id)
    return Member(
        id=row.id,
        status=row.status,
        primary_duplicate_id=row.primary_duplicate_id,
        duplicate_ids=row.duplicate_ids,
        grouped_at=row.grouped_at,
        checked_at=row.checked_at,
    )
