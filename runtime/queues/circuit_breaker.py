"""The shared pause on reads of Meld: one row, heeded by every process that reads.

It closes when Meld says wait (429), refuses our credentials (401, 403), or fails for one connection after another.
While it is closed nobody begins a read; when its time is up one reader goes ahead to probe, and a good answer opens
it for all.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import or_, update
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.tables import CircuitBreakerRow

NAME = "meld"


_CURRENT = select(
    CircuitBreakerRow.reason, CircuitBreakerRow.detail, CircuitBreakerRow.since, CircuitBreakerRow.paused_until
).where(CircuitBreakerRow.name == NAME)
_OPEN = (
    update(CircuitBreakerRow)
    .where(
        col(CircuitBreakerRow.name) == NAME,
        or_(col(CircuitBreakerRow.failures) > 0, col(CircuitBreakerRow.paused_until).is_not(None)),
    )
    .values(failures=0, connection_id=None, reason=None, detail=None, since=None, paused_until=None)
)

Entry = Literal["open", "probe", "closed"]
"""May a read begin? As usual; as the one that finds out whether the pause is over; or not now."""


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """Why reads rest, since when and until when; what is not paused has no ``OpenCircuit``."""

    reason: str
    detail: str
    since: datetime
    until: datetime


def current(session: Session) -> OpenCircuit | None:
    """Return the pause that is on, also when its time is up and only a probe may go ahead."""
    row = session.connection().execute(_CURRENT).first()
    if row is None or row.paused_until is None or row.since is None:
        return None
    return OpenCircuit(row.reason or "", row.detail or "", row.since, row.paused_until)


def enter(database: Database, session: Session, probe_seconds: float) -> Entry:
    """Return whether a read may begin now. Where a pause has run out, the first to ask is let in to probe.

    Args:
        database: The database.
        session: An open transaction that writes.
        probe_seconds: How long the others wait for the probe's answer.
    """
    if current(session) is None:
        return "open"
    probe = update(CircuitBreakerRow).where(
        col(CircuitBreakerRow.name) == NAME, col(CircuitBreakerRow.paused_until) <= database.now()
    )
    is_first = session.exec(probe.values(paused_until=database.now(probe_seconds))).rowcount == 1
    return "probe" if is_first else "closed"


def open_(session: Session) -> None:
    """Note a good answer: end the pause and forget the failures before it."""
    session.connection().execute(_OPEN)


def count(session: Session, connection_id: str, *, speaks_of_meld: bool) -> int:
    """Count a failure, and return how many there were in a row.

    Args:
        session: An open transaction that writes.
        connection_id: The connection whose read failed.
        speaks_of_meld: Whether the failure is surely Meld's or ours. If not, a connection that fails again and again
            counts once: that speaks of the connection.
    """
    statement = update(CircuitBreakerRow).where(col(CircuitBreakerRow.name) == NAME)
    if not speaks_of_meld:
        statement = statement.where(
            or_(col(CircuitBreakerRow.connection_id).is_(None), col(CircuitBreakerRow.connection_id) != connection_id)
        )
    session.exec(statement.values(failures=CircuitBreakerRow.failures + 1, connection_id=connection_id))
    return session.exec(select(CircuitBreakerRow.failures).where(CircuitBreakerRow.name == NAME)).one()


def close(database: Database, session: Session, *, reason: str, detail: str, seconds: float) -> None:
    """Pause all reads for ``seconds`` from now. A pause that is on keeps its beginning."""
    since = session.exec(select(CircuitBreakerRow.since).where(CircuitBreakerRow.name == NAME)).one()
    values = {"reason": reason, "detail": detail, "paused_until": database.now(seconds)}
    session.exec(
        update(CircuitBreakerRow)
        .where(col(CircuitBreakerRow.name) == NAME)
        .values(since=since or database.now(), **values)
    )
