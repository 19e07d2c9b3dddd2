"""Circuit breaker for reads of Meld: one database row that all processes share.

Closed: reads run. The circuit opens when Meld asks for a delay (429), refuses our credentials (401, 403), or fails for
several connections in a row. Open: no process begins a read. When the time of the open circuit has passed, it is
half-open: one reader may send a probe, and a good answer closes the circuit for all.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import or_, update
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.tables import CircuitBreakerRow

BREAKER_NAME = "meld"

_SELECT_BREAKER = select(
    CircuitBreakerRow.reason, CircuitBreakerRow.detail, CircuitBreakerRow.since, CircuitBreakerRow.paused_until
).where(CircuitBreakerRow.name == BREAKER_NAME)
_CLOSE = (
    update(CircuitBreakerRow)
    .where(
        col(CircuitBreakerRow.name) == BREAKER_NAME,
        or_(col(CircuitBreakerRow.failures) > 0, col(CircuitBreakerRow.paused_until).is_not(None)),
    )
    .values(failures=0, connection_id=None, reason=None, detail=None, since=None, paused_until=None)
)

CircuitState = Literal["closed", "half-open", "open"]
"""``closed``: a read may begin. ``half-open``: this reader sends the probe. ``open``: no read may begin now."""


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """Why the circuit is open, since when and until when. A closed circuit has no ``OpenCircuit``."""

    reason: str
    detail: str
    since: datetime
    until: datetime


def get_open_circuit(session: Session) -> OpenCircuit | None:
    """Return the open circuit; None where it is closed. A half-open circuit counts as open."""
    row = session.connection().execute(_SELECT_BREAKER).first()
    if row is None or row.paused_until is None or row.since is None:
        return None
    return OpenCircuit(row.reason or "", row.detail or "", row.since, row.paused_until)


def acquire_permission(database: Database, session: Session, probe_seconds: float) -> CircuitState:
    """Return whether a read may begin now. When the open time has passed, the first caller gets the probe.

    Args:
        database: The database.
        session: An open transaction that writes.
        probe_seconds: How long the other readers wait for the result of the probe.
    """
    if get_open_circuit(session) is None:
        return "closed"
    probe = update(CircuitBreakerRow).where(
        col(CircuitBreakerRow.name) == BREAKER_NAME, col(CircuitBreakerRow.paused_until) <= database.now()
    )
    is_first = session.exec(probe.values(paused_until=database.now(probe_seconds))).rowcount == 1
    return "half-open" if is_first else "open"


def close_circuit(session: Session) -> None:
    """Record a good answer: close the circuit and reset the count of failures."""
    session.connection().execute(_CLOSE)


def record_failure(session: Session, connection_id: str, *, is_systemic: bool) -> int:
    """Count a failed read, and return the number of failures in a row.

    Args:
        session: An open transaction that writes.
        connection_id: The connection whose read failed.
        is_systemic: Whether the cause is certainly Meld or our credentials. If not, repeated failures of one
            connection count once, because they may be caused by that connection.
    """
    statement = update(CircuitBreakerRow).where(col(CircuitBreakerRow.name) == BREAKER_NAME)
    if not is_systemic:
        statement = statement.where(
            or_(col(CircuitBreakerRow.connection_id).is_(None), col(CircuitBreakerRow.connection_id) != connection_id)
        )
    session.exec(statement.values(failures=CircuitBreakerRow.failures + 1, connection_id=connection_id))
    return session.exec(select(CircuitBreakerRow.failures).where(CircuitBreakerRow.name == BREAKER_NAME)).one()


def open_circuit(database: Database, session: Session, *, reason: str, detail: str, seconds: float) -> None:
    """Stop all reads for ``seconds`` from now. A circuit that is already open keeps its ``since``."""
    since = session.exec(select(CircuitBreakerRow.since).where(CircuitBreakerRow.name == BREAKER_NAME)).one()
    values = {"reason": reason, "detail": detail, "paused_until": database.now(seconds)}
    session.exec(
        update(CircuitBreakerRow)
        .where(col(CircuitBreakerRow.name) == BREAKER_NAME)
        .values(since=since or database.now(), **values)
    )
