"""Scheduler loop (``clock``): each second, notifies workers of due reads and deliveries; requests stale reads.

The scheduler makes up for every message to a worker that was lost. ``run_once`` does one pass under a task lease in the
database, so any number of schedulers may run, of which one is active. The lease is renewed by each pass (heartbeat).
"""

import threading
from collections.abc import Callable, Collection

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from runtime import logs
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import circuit_breaker, reads
from runtime.queues.task_lease import TaskLease
from schemas.tables import ReadRequestRow
from service.scheduler.due_deliveries import mark_due_subscriptions
from service.scheduler.overdue_connections import request_stale_reads

log = logs.get_logger(__name__)

LEASE_NAME = "clock"
PASS_SECONDS = 1.0
LEASE_SECONDS = 5.0
"""If the active scheduler does not renew its lease for this long, another one takes over."""

MAX_MESSAGES_IN_FLIGHT = 1000
"""Messages for reads that the scheduler has in the broker at a time: enough for many workers, and a backlog of any size
does not fill the broker."""

STALE_CHECK_PASSES = 10
"""The scheduler looks for stale connections in each tenth pass."""


class Scheduler:
    """The scheduler of one process.

    Args:
        database: The database.
        notify_readers: Enqueues a message for the workers of each connection; raises ``OutOfReachError``.
        notify_dispatchers: Enqueues a message for the workers of each subscription; raises ``OutOfReachError``.
        holder: Names this process in the lease.
        fresh_seconds: The maximum age of the last read of a live connection; 0 turns this off.
    """

    def __init__(
        self,
        *,
        database: Database,
        notify_readers: Callable[[Collection[str]], None],
        notify_dispatchers: Callable[[Collection[str]], None],
        holder: str,
        fresh_seconds: float = 0,
    ) -> None:
        self._database = database
        self._notify_readers = notify_readers
        self._notify_dispatchers = notify_dispatchers
        self._lease = TaskLease(database=database, name=LEASE_NAME, holder=holder, seconds=LEASE_SECONDS)
        self._fresh_seconds = fresh_seconds
        self._passes = 0
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def start(self) -> None:
        """Start the thread that runs a pass each second."""
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """End the thread; another scheduler takes over when the lease has ended."""
        self._is_stopping.set()
        self._thread.join(seconds)

    def is_alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def run_once(self) -> int:
        """Do one pass if this process holds the lease; return the number of enqueued messages.

        Raises:
            OutOfReachError: If the database or the broker does not answer; the next pass tries again.
        """
        with self._database.write() as session:
            if not self._lease.acquire(session):
                return 0
            connections = [*self._request_stale_reads(session), *self._mark_due_reads(session)]
            subscriptions = mark_due_subscriptions(self._database, session)
        self._notify_dispatchers(subscriptions)
        self._notify_readers(connections)
        return len(connections) + len(subscriptions)

    def _request_stale_reads(self, session: Session) -> list[str]:
        """Request reads of stale connections in each tenth pass, unless the circuit is open."""
        if circuit_breaker.get_open_circuit(session) is not None:
            return []
        self._passes += 1
        if self._passes % STALE_CHECK_PASSES != 1:
            return []
        return request_stale_reads(self._database, session, fresh_seconds=self._fresh_seconds)

    def _mark_due_reads(self, session: Session) -> list[str]:
        """Return the connections with a due read that no message is on its way for, and mark them as notified."""
        limit = self._get_limit(session)
        if limit <= 0:
            return []
        due = (
            select(ReadRequestRow.connection_id)
            .where(reads.is_due(self._database), reads.needs_notification(self._database))
            .order_by(col(ReadRequestRow.due_at))
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        mark = update(ReadRequestRow).where(col(ReadRequestRow.connection_id).in_(select(due.c.connection_id)))
        notified = mark.values(woken_at=self._database.now()).returning(col(ReadRequestRow.connection_id))
        return list(session.exec(notified).scalars().all())

    def _get_limit(self, session: Session) -> int:
        """Return how many messages may be enqueued: none while the circuit is open, one probe while it is half-open."""
        circuit = circuit_breaker.get_open_circuit(session)
        if circuit is not None:
            now = session.exec(select(self._database.now())).one()
            return 0 if circuit.until > now else 1
        in_flight = (
            select(ReadRequestRow.connection_id)
            .where(
                reads.is_due(self._database),
                col(ReadRequestRow.woken_at) >= self._database.now(-reads.RENOTIFY_AFTER_SECONDS),
            )
            .limit(MAX_MESSAGES_IN_FLIGHT)
            .subquery()
        )
        return MAX_MESSAGES_IN_FLIGHT - session.exec(select(func.count()).select_from(in_flight)).one()

    def _run(self) -> None:
        while not self._is_stopping.wait(PASS_SECONDS):
            try:
                self.run_once()
            except OutOfReachError as error:
                log.warning("clock pass failed", detail=str(error))
            except Exception:
                # The next pass may succeed, whatever the error was. Without passes, lost messages stay lost.
                log.exception("clock pass failed")
