"""Turn: a lease in the database on what one process at a time may do, whichever process that is."""

from typing import Any

from sqlalchemy import delete, or_, update
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.tables import TaskLeaseRow


class TaskLease:
    """The lease on one thing.

    Args:
        database: The database.
        name: The thing.
        holder: Names this process.
        seconds: How long a holder that has not been heard of keeps it.
        is_done_at_once: Whether taking it is all there is to do, as for a pass of the clock; otherwise the thing was
            done, and is not due again for a while, when ``leave`` says so.
    """

    def __init__(
        self, *, database: Database, name: str, holder: str, seconds: float, is_done_at_once: bool = True
    ) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._seconds = seconds
        self._is_done_at_once = is_done_at_once

    def take(self, session: Session) -> bool:
        """Take the lease, or make it last; return whether it is ours."""
        now = self._database.now()
        mine: dict[str, Any] = {"holder": self._holder, "until": self._database.now(self._seconds)}
        if self._is_done_at_once:
            mine["ran_at"] = now
        lease = self._database.insert(TaskLeaseRow).values(name=self._name, **mine)
        is_free = or_(col(TaskLeaseRow.until) <= now, col(TaskLeaseRow.holder) == self._holder)
        upsert = lease.on_conflict_do_update(index_elements=["name"], set_=mine, where=is_free)
        return session.exec(upsert.returning(col(TaskLeaseRow.name))).one_or_none() is not None

    def leave(self, session: Session, *, is_done: bool = False) -> None:
        """Give the lease back, if it is ours."""
        mine = update(TaskLeaseRow).where(
            col(TaskLeaseRow.name) == self._name, col(TaskLeaseRow.holder) == self._holder
        )
        now = self._database.now()
        session.exec(mine.values(until=now, ran_at=now if is_done else TaskLeaseRow.ran_at))

    def is_due(self, session: Session, every_seconds: float) -> bool:
        """Return whether nobody is at the thing, and it was last done so long ago, or begun and never done.

        What nobody has ever begun is due as long after this was first asked.
        """
        now = session.exec(select(self._database.now())).one()
        lease = session.get(TaskLeaseRow, self._name)
        if lease is None:
            first = self._database.insert(TaskLeaseRow).values(
                name=self._name, holder=self._holder, until=now, ran_at=now
            )
            session.exec(first.on_conflict_do_nothing(index_elements=["name"]))
            return False
        if lease.until > now:
            return False
        return lease.ran_at is None or (now - lease.ran_at).total_seconds() >= every_seconds

    def forget(self, session: Session) -> None:
        """Give the lease back of a thing that is over."""
        session.exec(
            delete(TaskLeaseRow).where(col(TaskLeaseRow.name) == self._name, col(TaskLeaseRow.holder) == self._holder)
        )
