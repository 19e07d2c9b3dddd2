"""The work owed to connections: how jobs are locked and raised, by whoever learns that a connection may have changed.

A transaction that touches several job rows locks them first, in the order of their ids; so does the inbox. None can
deadlock another.
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

WOKEN_SECONDS = 10
"""A job whose worker was called this recently is not called again: the message is still on its way."""


def lock(database: Database, session: Session, ids: Collection[str]) -> None:
    """Lock the job rows of these connections until the transaction ends; rows that are missing are made on the way.

    One statement makes and locks row by row, in order. Were the missing ones made first, they would be held while a
    lock on an earlier row is waited for; whoever has that one and comes to the new ones would wait in turn.
    """
    database.run(session, _lock, ids=sorted(set(ids)))


def raise_jobs(
    database: Database,
    session: Session,
    ids: Collection[str],
    trigger: Trigger,
    *,
    due_in: float = 0,
    depth: int = 0,
    replay_id: str | None = None,
) -> list[str]:
    """Ask for a read of each connection; return those whose worker should be called after the commit.

    A job that is already owed is asked for once more: a read that is under way may have begun too early. Being
    raised never puts a due read off. A webhook is news: it gets all attempts anew; and all but a recheck get all
    rechecks anew.

    Args:
        database: The database.
        session: An open transaction that writes.
        ids: The connections, known or unknown.
        trigger: Why.
        due_in: Seconds from now before which the read shall not begin; then the clock calls the worker.
        depth: How far the wish came through siblings.
        replay_id: The replay that asks; whoever asks later takes its place.
    """
    if not ids:
        return []
    raised = database.run(session, _raise, trigger, due_in, depth, ids=sorted(set(ids)), replay=replay_id)
    return [connection_id for connection_id, is_called in raised if is_called]


def take_back_calls(session: Session, ids: Collection[str]) -> None:
    """Note that nobody could be called for these connections; the clock calls with its next pass."""
    held = in_order(col(ReadRequestRow.connection_id).in_(ids))
    session.exec(update(ReadRequestRow).where(col(ReadRequestRow.connection_id).in_(held)).values(woken_at=None))


def forget_calls(session: Session) -> None:
    """Free every job: nobody is at work, and no call is on its way.

    For a process that starts and knows that it is alone: what another had claimed or called for died with it.
    """
    owed = update(ReadRequestRow).where(col(ReadRequestRow.requested) > col(ReadRequestRow.completed))
    session.exec(owed.values(woken_at=None, lease_token=None, leased_until=None))


def in_order(condition: ColumnElement[bool]) -> Select[tuple[str]]:
    """Return a query for the connections whose jobs meet a condition; it locks them in the order of their ids."""
    locking = (
        select(col(ReadRequestRow.connection_id))
        .where(condition)
        .order_by(col(ReadRequestRow.connection_id))
        .with_for_update()
    )
    return select(locking.cte("locked").c.connection_id)


def callable_now(database: Database) -> ColumnElement[bool]:
    """Whether a job's worker should be called: nobody is at work on it, and no call is on its way."""
    return and_(
        or_(col(ReadRequestRow.leased_until).is_(None), col(ReadRequestRow.leased_until) < database.now()),
        or_(col(ReadRequestRow.woken_at).is_(None), col(ReadRequestRow.woken_at) < database.now(-WOKEN_SECONDS)),
    )


def _lock(database: Database) -> Executable:
    # A row that is there is locked by the attempt to update it, and stays as it is.
    unchanged = {"requested": ReadRequestRow.requested}
    return _insert(database).on_conflict_do_update(index_elements=["connection_id"], set_=unchanged, where=false())


def _raise(database: Database, trigger: Trigger, due_in: float, depth: int) -> Executable:
    now, due = database.now(), database.now(due_in)
    is_news = trigger == "webhook"
    is_owed = col(ReadRequestRow.requested) > col(ReadRequestRow.completed)
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
            "woken_at": None if due_in else case((callable_now(database), now), else_=ReadRequestRow.woken_at),
            "attempts": 0
            if is_news
            else case((col(ReadRequestRow.failed_at).is_not(None), 0), else_=ReadRequestRow.attempts),
            "depth": case((is_owed & (col(ReadRequestRow.depth) < depth), ReadRequestRow.depth), else_=depth),
            "rechecks": ReadRequestRow.rechecks if trigger == "recheck" else 0,
            "failed_at": None,
            "replay_id": replay,
        },
    )
    return upsert.returning(
        col(ReadRequestRow.connection_id), col(ReadRequestRow.woken_at) == col(ReadRequestRow.requested_at)
    )


def _insert(database: Database, **values: object) -> Insert:
    """Return an ``INSERT`` of a row for each of the parameter ``ids``, in their order; idle but for ``values``."""
    idle = {"requested": 0, "completed": 0, "trigger": "webhook", "due_at": null(), "woken_at": null()}
    row = {**idle, "requested_at": database.now(), "attempts": 0, "depth": 0, "rechecks": 0, **values}
    ids = database.each("ids")
    # Without a WHERE, SQLite takes ON CONFLICT for a part of the SELECT.
    rows = select(ids.c.value, *map(_column, row.values())).where(true())
    return database.insert(ReadRequestRow).from_select(["connection_id", *row], rows)


def _column(value: object) -> Any:  # noqa: ANN401 - a column's expression
    return literal(value) if isinstance(value, str | int) else value
