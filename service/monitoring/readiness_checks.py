"""Readiness checks of what the service needs, from the database: migrations, scheduler heartbeat, backlog, Meld.

``GET /readyz`` returns their results by name as ``parts``.
"""

from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select

from migrations import revisions
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import circuit_breaker
from schemas.tables import TaskLeaseRow
from service.monitoring import read_backlog
from service.scheduler import loop

CHECK_TIMEOUT_SECONDS = 2.0
"""How long ``GET /readyz`` waits for the checks of the database, and for that of the broker."""

MAX_CLOCK_SILENCE_SECONDS = 30
MAX_BACKLOG_SECONDS = 300
MAX_OPEN_SECONDS = 300

OK = "ok"
UNKNOWN = "unknown"

ReadinessCheck = Callable[[Database], str | None]
"""Returns what is wrong and what to do, or None."""


def check_database(database: Database) -> str | None:
    """Check that the database answers; raises ``OutOfReachError``."""
    with database.read() as session:
        session.exec(select(database.now())).one()
    return None


def check_migrations(database: Database) -> str | None:
    """Check that the database has the tables that this version of the program expects."""
    with database.read() as session:
        engine = session.get_bind()  # on SQLite the engine for writing would take the write lock
    assert isinstance(engine, Engine)
    return None if revisions.is_current(engine) else "The database is not migrated. Run `meldwatch migrate`."


def check_clock(database: Database) -> str | None:
    """Check the heartbeat of the scheduler, in whichever process it runs."""
    ran = select(TaskLeaseRow.name).where(
        TaskLeaseRow.name == loop.LEASE_NAME, col(TaskLeaseRow.ran_at) >= database.now(-MAX_CLOCK_SILENCE_SECONDS)
    )
    with database.read() as session:
        if session.exec(ran).first() is not None:
            return None
    return f"No clock has run for {MAX_CLOCK_SILENCE_SECONDS} s. Is a `meldwatch clock` process running?"


def check_backlog(database: Database) -> str | None:
    """Check that no due read waits for long, unless the circuit breaker is open, which ``check_meld`` reports."""
    with database.read() as session:
        if circuit_breaker.get_open_circuit(session) is not None:
            return None
        seconds = read_backlog.oldest_seconds(database, session)
    if seconds <= MAX_BACKLOG_SECONDS:
        return None
    return f"A read of Meld has been due for {seconds:.0f} s. Is a `meldwatch worker` process running?"


def check_meld(database: Database) -> str | None:
    """Check that the circuit breaker for reads of Meld is not open for long, nor for refused credentials."""
    with database.read() as session:
        circuit = circuit_breaker.get_open_circuit(session)
        open_seconds = _seconds_since(database, session, circuit)
    if circuit is None:
        return None
    if circuit.reason == "refused":
        return "Meld refuses our credentials. Check MELDWATCH_MELD_API_KEY and MELDWATCH_MELD_API_URL."
    return f"Reads have been paused for {open_seconds:.0f} s." if open_seconds > MAX_OPEN_SECONDS else None


def _seconds_since(database: Database, session: Session, circuit: circuit_breaker.OpenCircuit | None) -> float:
    return (session.exec(select(database.now())).one() - circuit.since).total_seconds() if circuit else 0.0


DATABASE_CHECKS: dict[str, ReadinessCheck] = {
    "database": check_database,
    "migrations": check_migrations,
    "clock": check_clock,
    "backlog": check_backlog,
    "meld": check_meld,
}
"""The checks by name, in the order in which they run."""

PREREQUISITES = ("database", "migrations")
"""Checks without which the later ones cannot run."""


def run_database_checks(database: Database) -> dict[str, str]:
    """Return the result of each check: ``OK``, what is wrong, or ``UNKNOWN`` if a prerequisite failed."""
    results: dict[str, str] = {}
    for name, check in DATABASE_CHECKS.items():
        if any(results.get(prerequisite, OK) != OK for prerequisite in PREREQUISITES):
            results[name] = UNKNOWN
            continue
        try:
            results[name] = check(database) or OK
        except OutOfReachError as error:
            results[name] = str(error)
        except SQLAlchemyError as error:
            results[name] = f"The query failed ({type(error).__name__})."
    return results
