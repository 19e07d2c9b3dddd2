"""Clock: what has to happen by itself. It closes every window in which a call to a worker can be lost.

``run_once`` does one pass under a lease in the database, so any number of clocks may run.
"""

import threading
from collections.abc import Callable, Collection

from sqlalchemy import ColumnElement, func, update
from sqlmodel import Session, col, select

from runtime import logs
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import circuit_breaker, reads
from runtime.queues.task_lease import TaskLease
from schemas.tables import ReadRequestRow
from service.scheduler.due_deliveries import due_pushes
from service.scheduler.stale_connections import raise_overdue

log = logs.get(__name__)

NAME = "clock"
PASS_SECONDS = 1.0
LEASE_SECONDS = 5.0
"""A clock that has not been heard of for so long is replaced by another."""

MOST_CALLS = 1000
"""Calls on their way at a time, as far as the clock adds to them: enough for many workers, and a backlog of any size
does not fill the broker with calls for what it has been called for already."""

OVERDUE_PASSES = 10
"""Passes from one look for what is overdue to the next."""


class Scheduler:
    """The clock of one process.

    Args:
        database: Where the work is.
        call: Calls workers for connections; raises ``OutOfReachError``.
        push: Calls workers for subscriptions, likewise.
        holder: Names this process in the lease.
        fresh_seconds: How old the last read of a living connection may be; 0 turns it off.
    """

    def __init__(
        self,
        *,
        database: Database,
        call: Callable[[Collection[str]], None],
        push: Callable[[Collection[str]], None],
        holder: str,
        fresh_seconds: float = 0,
    ) -> None:
        self._database = database
        self._call = call
        self._push = push
        self._turn = TaskLease(database=database, name=NAME, holder=holder, seconds=LEASE_SECONDS)
        self._fresh_seconds = fresh_seconds
        self._passes = 0
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def start(self) -> None:
        """Start the thread that runs a pass each second."""
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """End the thread, and leave the lease to others."""
        self._is_stopping.set()
        self._thread.join(seconds)

    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._thread.is_alive()

    def run_once(self) -> int:
        """Do one pass, if it is this process's turn; return how many workers were called.

        Raises:
            OutOfReachError: Where the database or the broker does not answer; the next pass tries again.
        """
        with self._database.write() as session:
            if not self._turn.take(session):
                return 0
            calls = [*self._overdue(session), *self._due(session)]
            pushes = due_pushes(self._database, session)
        self._push(pushes)
        self._call(calls)
        return len(calls) + len(pushes)

    def _overdue(self, session: Session) -> list[str]:
        """Ask once in a while for what nobody has spoken of for too long; not while reads rest."""
        if circuit_breaker.current(session) is not None:
            return []
        self._passes += 1
        if self._passes % OVERDUE_PASSES != 1:
            return []
        return raise_overdue(self._database, session, fresh_seconds=self._fresh_seconds)

    def _due(self, session: Session) -> list[str]:
        """Mark the jobs that are due and whose workers nobody has called lately, and return their connections."""
        limit = self._allowed(session)
        if limit <= 0:
            return []
        due = (
            select(ReadRequestRow.connection_id)
            .where(*self._is_due(), reads.callable_now(self._database))
            .order_by(col(ReadRequestRow.due_at))
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        mark = update(ReadRequestRow).where(col(ReadRequestRow.connection_id).in_(select(due.c.connection_id)))
        called = mark.values(woken_at=self._database.now()).returning(col(ReadRequestRow.connection_id))
        return list(session.exec(called).scalars().all())

    def _allowed(self, session: Session) -> int:
        """Return how many workers may be called: one, to probe, where a pause has run out; none while it is on."""
        pause = circuit_breaker.current(session)
        if pause is not None:
            now = session.exec(select(self._database.now())).one()
            return 0 if pause.until > now else 1
        on_their_way = (
            select(ReadRequestRow.connection_id)
            .where(*self._is_due(), col(ReadRequestRow.woken_at) >= self._database.now(-reads.WOKEN_SECONDS))
            .limit(MOST_CALLS)
            .subquery()
        )
        return MOST_CALLS - session.exec(select(func.count()).select_from(on_their_way)).one()

    def _is_due(self) -> tuple[ColumnElement[bool], ...]:
        return col(ReadRequestRow.requested) > col(ReadRequestRow.completed), col(
            ReadRequestRow.due_at
        ) <= self._database.now()

    def _run(self) -> None:
        while not self._is_stopping.wait(PASS_SECONDS):
            try:
                self.run_once()
            except OutOfReachError as error:
                log.warning("clock pass failed", detail=str(error))
            except Exception:
                # Whatever it was, the next pass may do better; without passes, what was lost stays lost.
                log.exception("clock pass failed")
