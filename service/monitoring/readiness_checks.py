"""Parts: what the service needs, each asked in turn whether it is well, by way of the rows."""

from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select

from migrations import run as migrations
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import circuit_breaker
from schemas.tables import TaskLeaseRow
from service.monitoring import read_backlog
from service.scheduler import loop

CLOCK_SECONDS = 30
BACKLOG_SECONDS = 300
PAUSE_SECONDS = 300

OK = "ok"
UNKNOWN = "unknown"

Part = Callable[[Database], str | None]
"""Returns what is wrong; None where nothing is."""


def check_database(database: Database) -> str | None:
    """Ask the database for a sign of life."""
    with database.read() as session:
        session.exec(select(database.now())).one()
    return None


def check_migrations(database: Database) -> str | None:
    """Is the database what this version of the program expects?"""
    with database.read() as session:
        engine = session.get_bind()  # the one that reads: SQLite's other would take the write lock
    assert isinstance(engine, Engine)
    return None if migrations.is_current(engine) else "The database is not migrated. Run `meldwatch migrate`."


def check_clock(database: Database) -> str | None:
    """Does a clock run, here or elsewhere?"""
    ran = select(TaskLeaseRow.name).where(
        TaskLeaseRow.name == loop.NAME, col(TaskLeaseRow.ran_at) >= database.now(-CLOCK_SECONDS)
    )
    with database.read() as session:
        if session.exec(ran).first() is not None:
            return None
    return f"No clock has run for {CLOCK_SECONDS} s. Is a `meldwatch clock` process running?"


def check_backlog(database: Database) -> str | None:
    """Is what is owed being done? While reads are paused nothing can be, and ``meld`` says so."""
    with database.read() as session:
        if circuit_breaker.current(session) is not None:
            return None
        seconds = read_backlog.oldest_seconds(database, session)
    if seconds <= BACKLOG_SECONDS:
        return None
    return f"A read of Meld has been due for {seconds:.0f} s. Is a `meldwatch worker` process running?"


def check_meld(database: Database) -> str | None:
    """Does Meld take our reads?"""
    with database.read() as session:
        pause = circuit_breaker.current(session)
        paused_seconds = _seconds_since(database, session, pause)
    if pause is None:
        return None
    if pause.reason == "refused":
        return "Meld refuses our credentials. Check MELDWATCH_MELD_API_KEY and MELDWATCH_MELD_API_URL."
    return f"Reads have been paused for {paused_seconds:.0f} s." if paused_seconds > PAUSE_SECONDS else None


def _seconds_since(database: Database, session: Session, pause: circuit_breaker.OpenCircuit | None) -> float:
    return (session.exec(select(database.now())).one() - pause.since).total_seconds() if pause else 0.0


DATABASE_PARTS: dict[str, Part] = {
    "database": check_database,
    "migrations": check_migrations,
    "clock": check_clock,
    "backlog": check_backlog,
    "meld": check_meld,
}
"""In this order: where one of the first two fails, those behind it cannot be told."""

GROUNDS = ("database", "migrations")


def check_all(database: Database) -> dict[str, str]:
    """Return what is to be said of each part that is told from the rows."""
    parts: dict[str, str] = {}
    for name, check in DATABASE_PARTS.items():
        if any(parts.get(ground, OK) != OK for ground in GROUNDS):
            parts[name] = UNKNOWN
            continue
        try:
            parts[name] = check(database) or OK
        except OutOfReachError as error:
            parts[name] = str(error)
        except SQLAlchemyError as error:
            parts[name] = f"The database refuses to tell ({type(error).__name__})."
    return parts
