"""Task lease: a database row that lets one process at a time run a task (scheduler, reconcile, retention, replay)."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, or_, update
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.tables import TaskLeaseRow


class TaskLease:
    """The lease of one task.

    Args:
        database: The database.
        name: The task.
        holder: Names this process.
        seconds: How long a holder keeps the lease without renewing it.
        is_run_on_acquire: Whether to acquire the lease counts as a run of the task, as for a pass of the scheduler.
            Otherwise the run is complete, and the task is not due for a while, when ``release`` says so.
    """

    def __init__(
        self, *, database: Database, name: str, holder: str, seconds: float, is_run_on_acquire: bool = True
    ) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._seconds = seconds
        self._is_run_on_acquire = is_run_on_acquire

    def acquire(self, session: Session) -> bool:
        """Acquire the lease, or renew it; return whether this process holds it."""
        now = self._database.now()
        values: dict[str, Any] = {"holder": self._holder, "until": self._database.now(self._seconds)}
        if self._is_run_on_acquire:
            values["ran_at"] = now
        lease = self._database.insert(TaskLeaseRow).values(name=self._name, **values)
        is_free = or_(col(TaskLeaseRow.until) <= now, col(TaskLeaseRow.holder) == self._holder)
        upsert = lease.on_conflict_do_update(index_elements=["name"], set_=values, where=is_free)
        return session.exec(upsert.returning(col(TaskLeaseRow.name))).one_or_none() is not None

    def release(self, session: Session, *, is_run_complete: bool = False) -> None:
        """Release the lease if this process holds it."""
        lease = update(TaskLeaseRow).where(
            col(TaskLeaseRow.name) == self._name, col(TaskLeaseRow.holder) == self._holder
        )
        now = self._database.now()
        session.exec(lease.values(until=now, ran_at=now if is_run_complete else TaskLeaseRow.ran_at))

    def begin_run(self, session: Session) -> None:
        """Mark a run as begun, if this process holds the lease.

        If the run is interrupted before ``complete_run``, the task is due as soon as no process holds the lease.
        """
        self._set_ran_at(session, None)

    def complete_run(self, session: Session, began_at: datetime) -> None:
        """Mark a run as complete, if this process holds the lease; the next one is due counted from ``began_at``."""
        self._set_ran_at(session, began_at)

    def _set_ran_at(self, session: Session, ran_at: datetime | None) -> None:
        lease = update(TaskLeaseRow).where(
            col(TaskLeaseRow.name) == self._name, col(TaskLeaseRow.holder) == self._holder
        )
        session.exec(lease.values(ran_at=ran_at))

    def is_due(self, session: Session, every_seconds: float) -> bool:
        """Return whether no process holds the lease and the last run is old enough, or was begun and never completed.

        A task that has never begun is first due ``every_seconds`` after the first call of this method.
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

    def delete(self, session: Session) -> None:
        """Delete the row of a task that will not run again, if this process holds the lease."""
        session.exec(
            delete(TaskLeaseRow).where(col(TaskLeaseRow.name) == self._name, col(TaskLeaseRow.holder) == self._holder)
        )
