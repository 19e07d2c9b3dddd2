from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from migrations import run as migrations
from runtime.clock import utcnow
from runtime.database import Database
from runtime.queues import circuit_breaker
from schemas.tables import CircuitBreakerRow, TaskLeaseRow
from service.monitoring import readiness_checks
from tests.support import row_factory


def ran(seconds_ago: float) -> TaskLeaseRow:
    """Return the lease of a clock that ran so long ago."""
    time = utcnow() - timedelta(seconds=seconds_ago)
    return TaskLeaseRow(name="clock", holder="somebody", until=time, ran_at=time)


def in_seconds(**steps: float) -> dict[str, Any]:
    """Return times so many seconds from now."""
    return {name: utcnow() + timedelta(seconds=seconds) for name, seconds in steps.items()}


def pause(database: Database, *, reason: str, seconds_ago: float) -> None:
    """Pause all reads, as if so long ago."""
    with database.write() as session:
        circuit_breaker.close(database, session, reason=reason, detail="secret detail", seconds=30)
        session.exec(update(CircuitBreakerRow).values(since=utcnow() - timedelta(seconds=seconds_ago)))


def test_a_fresh_database_lacks_a_clock_alone(database: Database) -> None:
    """Everything else is well before anything has happened."""
    said = readiness_checks.check_all(database)

    assert [name for name, text in said.items() if text != readiness_checks.OK] == ["clock"]


@pytest.mark.parametrize(("seconds_ago", "is_well"), [(0, True), (25, True), (35, False)])
def test_a_clock_has_run_lately(database: Database, seconds_ago: float, *, is_well: bool) -> None:
    """Within the last 30 s, on whichever machine."""
    row_factory.store(database, ran(seconds_ago))

    assert is_well == (readiness_checks.check_clock(database) is None)


def test_another_lease_is_no_clock(database: Database) -> None:
    """It is the lease by the clock's name that counts, and that it ran."""
    row_factory.store(database, TaskLeaseRow(name="sweep", holder="x", until=utcnow(), ran_at=utcnow()))
    row_factory.store(database, TaskLeaseRow(name="clock", holder="x", until=utcnow()))

    assert "clock" in (readiness_checks.check_clock(database) or "")


def test_a_database_that_is_not_migrated_is_told(database: Database) -> None:
    """With the command that mends it; what lies behind is unknown, not failing."""
    migrations.downgrade(database.engine, "base")

    said = readiness_checks.check_all(database)

    expected = {"database": "ok", "clock": "unknown", "backlog": "unknown", "meld": "unknown"}
    assert expected == {name: text for name, text in said.items() if name != "migrations"}
    assert "meldwatch migrate" in said["migrations"]


def test_a_database_that_is_away_hides_the_rest(away: Database) -> None:
    """One thing is named, not everything that depends on it."""
    said = readiness_checks.check_all(away)

    assert "does not answer" in said.pop("database")
    assert dict.fromkeys(("migrations", "clock", "backlog", "meld"), "unknown") == said


@pytest.mark.parametrize(
    ("completed", "steps", "is_well"),
    [
        (0, {"due_at": -290}, True),
        (0, {"due_at": -310}, False),
        (1, {"due_at": -310}, True),
        (0, {"due_at": -310, "leased_until": 60}, True),
        (0, {"due_at": -310, "leased_until": -1}, False),
        (0, {"due_at": 310}, True),
        (0, {"failed_at": -310}, True),
    ],
)
def test_work_is_done_in_time(database: Database, completed: int, steps: dict[str, float], *, is_well: bool) -> None:
    """No job that is owed, due and at nobody's hands lies for more than 300 s."""
    row_factory.store(database, row_factory.job(requested=1, completed=completed, **in_seconds(**steps)))

    assert is_well == (readiness_checks.check_backlog(database) is None)


def test_while_reads_are_paused_no_work_is_late(database: Database) -> None:
    """Nothing can be done then, and ``meld`` says so."""
    row_factory.store(database, row_factory.job(requested=1, **in_seconds(due_at=-9000)))
    pause(database, reason="throttled", seconds_ago=1)

    assert readiness_checks.check_backlog(database) is None


@pytest.mark.parametrize(
    ("reason", "seconds_ago", "expected"),
    [
        ("refused", 0, "credentials"),
        ("throttled", 290, None),
        ("unavailable", 310, "paused for 31"),
        ("throttled", 310, "paused for 31"),
    ],
)
def test_meld_takes_our_reads(database: Database, reason: str, seconds_ago: float, expected: str | None) -> None:
    """Refused credentials show at once, other pauses when they last; what Meld said stays inside."""
    pause(database, reason=reason, seconds_ago=seconds_ago)

    said = readiness_checks.check_meld(database)

    assert (expected is None) == (said is None)
    assert (expected or "") in (said or "")
    assert "secret detail" not in (said or "")


def test_a_pause_that_is_over_is_forgotten(database: Database) -> None:
    """A good answer opens the gate, and Meld is well."""
    pause(database, reason="refused", seconds_ago=900)
    with database.write() as session:
        circuit_breaker.open_(session)

    assert readiness_checks.check_meld(database) is None


def test_readiness_writes_nothing(database: Database) -> None:
    """It answers while somebody else holds the right to write, which SQLite gives to one at a time."""
    row_factory.store(database, ran(0))

    with database.write() as session:
        session.exec(update(TaskLeaseRow).where(col(TaskLeaseRow.name) == "clock").values(holder="x"))
        said = readiness_checks.check_all(database)

    assert {"ok"} == set(said.values())
