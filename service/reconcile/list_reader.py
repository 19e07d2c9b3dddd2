"""Read pages of Meld's list of connections: with retries, respecting the circuit breaker, and renewing the lease."""

from collections.abc import Callable
from typing import Protocol

from sqlmodel import Session

from runtime import logs
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import circuit_breaker
from schemas.meld.read_outcome import ListPage, PageOutcome, Refused, Throttled, Unavailable, Unreadable

log = logs.get_logger(__name__)

POLL_SECONDS = 1.0
"""How often an open circuit is checked."""

PROBE_SECONDS = 30.0
"""How long workers wait for the result of the page that probes a half-open circuit."""

REFUSED_SECONDS = 20.0
"""How long the circuit is open after refused credentials (401, 403)."""

FAILED_SECONDS = 5.0
"""The delay after a page that could not be read, unless Meld asks for a longer one (``Retry-After``)."""

MAX_FAILURES = 10
"""Failures in a row after which the reader gives up."""


class ConnectionLister(Protocol):
    """The part of Meld's API that reconcile needs."""

    def page(self, *, after: str | None = None) -> PageOutcome:
        """Read one page of the list of all connections."""


class ListReader:
    """Reads pages of Meld's list for one process.

    Args:
        database: The database.
        lister: Meld.
        renew: Renews the lease of the reconcile in a transaction; raises if another process holds it.
        wait: Waits for so many seconds; returns whether this process is stopping.
    """

    def __init__(
        self,
        *,
        database: Database,
        lister: ConnectionLister,
        renew: Callable[[Session], None],
        wait: Callable[[float], bool],
    ) -> None:
        self._database = database
        self._lister = lister
        self._renew = renew
        self._wait = wait

    def read(self, after: str | None) -> ListPage:
        """Read the page behind a cursor. Wait while the circuit is open, and retry failures.

        Raises:
            OutOfReachError: If Meld fails again and again, or this process is stopping.
        """
        for failures in range(MAX_FAILURES):
            self._wait_for_circuit()
            outcome = self._lister.page(after=after)
            with self._database.write() as session:
                self._renew(session)
                if isinstance(outcome, ListPage):
                    circuit_breaker.close_circuit(session)
                    return outcome
                self._open_circuit(session, outcome)
            log.warning("page not read", outcome=type(outcome).__name__.lower(), failures=failures + 1)
            retry_after = outcome.retry_after if isinstance(outcome, Unavailable) else None
            self.delay(max(retry_after or 0, FAILED_SECONDS))
        raise OutOfReachError("Meld's list cannot be read. The pages so far are recorded; run reconcile again.")

    def delay(self, seconds: float) -> None:
        """Wait, and renew the lease meanwhile.

        Raises:
            OutOfReachError: If this process is stopping.
        """
        while not self._wait(min(seconds, FAILED_SECONDS)):
            seconds -= FAILED_SECONDS
            if seconds <= 0:
                return
            with self._database.write() as session:
                self._renew(session)
        raise OutOfReachError("The reconcile was interrupted. Run it again to resume it.")

    def _wait_for_circuit(self) -> None:
        while True:
            with self._database.write() as session:
                self._renew(session)
                if circuit_breaker.acquire_permission(self._database, session, PROBE_SECONDS) != "open":
                    return
            self.delay(POLL_SECONDS)

    def _open_circuit(self, session: Session, outcome: Throttled | Refused | Unavailable | Unreadable) -> None:
        """Open the circuit for all processes if Meld asked for a delay or refused our credentials."""
        match outcome:
            case Throttled(retry_after):
                seconds = FAILED_SECONDS if retry_after is None else max(retry_after, 1.0)
                circuit_breaker.open_circuit(
                    self._database, session, reason="throttled", detail="Meld answered 429", seconds=seconds
                )
            case Refused(detail):
                circuit_breaker.open_circuit(
                    self._database, session, reason="refused", detail=detail, seconds=REFUSED_SECONDS
                )
            case Unavailable() | Unreadable():
                log.warning("Meld's list", detail=outcome.detail)
