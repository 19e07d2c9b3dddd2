"""Read requests: the queue of reads of Meld, one database row for each connection (upsert, row locks, due, lease).

A transaction that touches several rows first locks them in the order of their ids; the webhook inbox does so too.
Therefore transactions cannot deadlock each other.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Executable,
    Select,
    and_,
    bindparam,
    case,
    false,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlmodel import Session, col

from runtime.database import Database, Insert
from schemas.message_names import Trigger
from schemas.tables import ReadRequestRow
from schemas.tables.column_types import Key

RENOTIFY_AFTER_SECONDS = 10
"""A worker that was notified this recently is not notified again: the message is probably still in the broker."""


def is_pending() -> ColumnElement[bool]:
    """Return the condition that a read is requested and not completed."""
    return col(ReadRequestRow.requested) > col(ReadRequestRow.completed)


def is_due(database: Database) -> ColumnElement[bool]:
    """Return the condition that a read is pending and may begin now."""
    return and_(is_pending(), col(ReadRequestRow.due_at) <= database.now())


def is_free(database: Database) -> ColumnElement[bool]:
    """Return the condition that no worker holds a lease on the read."""
    return or_(col(ReadRequestRow.leased_until).is_(None), col(ReadRequestRow.leased_until) < database.now())


def is_ready(database: Database) -> ColumnElement[bool]:
    """Return the condition that a worker may lease the read now: it is due and free."""
    return and_(is_due(database), is_free(database))


def needs_notification(database: Database) -> ColumnElement[bool]:
    """Return the condition that a worker should be notified: the read is free, and no message is on its way."""
    return and_(
        is_free(database),
        or_(
            col(ReadRequestRow.woken_at).is_(None), col(ReadRequestRow.woken_at) < database.now(-RENOTIFY_AFTER_SECONDS)
        ),
    )


def lock_requests(database: Database, session: Session, ids: Collection[str]) -> None:
    """Lock the rows of these connections until the transaction ends; insert the missing ones.

    One statement inserts and locks row by row, in order. If the missing rows were inserted first, this transaction
    would hold them while it waits for an earlier row, and the holder of that row could wait for them: a deadlock.
    """
    database.run(session, _lock, ids=sorted(set(ids)))


def request_reads(
    database: Database,
    session: Session,
    ids: Collection[str],
    trigger: Trigger,
    *,
    due_in: float = 0,
    depth: int = 0,
    replay_id: str | None = None,
) -> list[str]:
    """Request a read of each connection; return the connections whose workers to notify after the commit.

    If a read is already pending, one more is requested, because a read under way may have begun too early. A request
    never delays a read that is due earlier. A webhook resets the attempts; every trigger but a recheck resets the
    rechecks.

    Args:
        database: The database.
        session: An open transaction that writes.
        ids: The connections, known or unknown.
        trigger: Why the read is requested.
        due_in: Seconds from now before which the read must not begin. If above 0, the scheduler notifies the worker.
        depth: Over how many siblings the request came; 0 for a request from outside.
        replay_id: The replay that requests the read; a later request replaces it.
    """
    if not ids:
        return []
    upserted = database.run(session, _request, trigger, due_in, depth, ids=sorted(set(ids)), replay=replay_id)
    return [connection_id for connection_id, is_notified in upserted if is_notified]


def clear_notified(session: Session, ids: Collection[str]) -> None:
    """Record that the workers for these connections could not be notified; the scheduler does it in its next pass."""
    locked = lock_in_id_order(col(ReadRequestRow.connection_id).in_(ids))
    session.exec(update(ReadRequestRow).where(col(ReadRequestRow.connection_id).in_(locked)).values(woken_at=None))


def release_all(session: Session) -> None:
    """Release the leases of all pending reads, and mark no worker as notified.

    For a process that starts and knows that it is the only one: leases and messages of its predecessor are lost.
    """
    pending = update(ReadRequestRow).where(is_pending())
    session.exec(pending.values(woken_at=None, lease_token=None, leased_until=None))


def lock_in_id_order(condition: ColumnElement[bool]) -> Select[tuple[str]]:
    """Return a query for the connections whose rows meet a condition; it locks the rows in the order of their ids."""
    locking = (
        select(col(ReadRequestRow.connection_id))
        .where(condition)
        .order_by(col(ReadRequestRow.connection_id))
        .with_for_update()
    )
    return select(locking.cte("locked").c.connection_id)


def _lock(database: Database) -> Executable:
    # The attempt to update an existing row locks it; the false condition leaves it unchanged.
    unchanged = {"requested": ReadRequestRow.requested}
    return _insert(database).on_conflict_do_update(index_elements=["connection_id"], set_=unchanged, where=false())


def _request(database: Database, trigger: Trigger, due_in: float, depth: int) -> Executable:
    now, due = database.now(), database.now(due_in)
    replay = bindparam("replay", type_=Key)
    woken = null() if due_in else now
    insert = _insert(database, requested=1, trigger=trigger, due_at=due, depth=depth, woken_at=woken, replay_id=replay)
    upsert = insert.on_conflict_do_update(
        index_elements=["connection_id"],
        set_={
            "requested": ReadRequestRow.requested + 1,
            "trigger": trigger,
            "requested_at": now,
            "due_at": case((col(ReadRequestRow.due_at) < due, ReadRequestRow.due_at), else_=due),
            "woken_at": None if due_in else case((needs_notification(database), now), else_=ReadRequestRow.woken_at),
            "attempts": 0
            if trigger == "webhook"
            else case((col(ReadRequestRow.failed_at).is_not(None), 0), else_=ReadRequestRow.attempts),
            "depth": case((is_pending() & (col(ReadRequestRow.depth) < depth), ReadRequestRow.depth), else_=depth),
            "rechecks": ReadRequestRow.rechecks if trigger == "recheck" else 0,
            "failed_at": None,
            "replay_id": replay,
        },
    )
    return upsert.returning(
        col(ReadRequestRow.connection_id), col(ReadRequestRow.woken_at) == col(ReadRequestRow.requested_at)
    )


def _insert(database: Database, **values: object) -> Insert:
    """Return an ``INSERT`` of a row for each of the parameter ``ids``, in their order; idle without ``values``."""
    idle = {"requested": 0, "completed": 0, "trigger": "webhook", "due_at": null(), "woken_at": null()}
    row = {**idle, "requested_at": database.now(), "attempts": 0, "depth": 0, "rechecks": 0, **values}
    ids = database.unnest("ids")
    # Without a WHERE, SQLite parses ON CONFLICT as a part of the SELECT.
    rows = select(ids.c.value, *map(_as_column, row.values())).where(true())
    return database.insert(ReadRequestRow).from_select(["connection_id", *row], rows)


def _as_column(value: object) -> Any:  # noqa: ANN401 - a column's expression
    return literal(value) if isinstance(value, str | int) else value
