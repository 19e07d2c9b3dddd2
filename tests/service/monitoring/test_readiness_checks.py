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
    """Return the task lease of a scheduler with a heartbeat that old."""
    time = utcnow() - timedelta(seconds=seconds_ago)
    return TaskLeaseRow(name="clock", holder="somebody", until=time, ran_at=time)


def in_seconds(**steps: float) -> dict[str, Any]:
    """Return times relative to now."""
    return {name: utcnow() + timedelta(seconds=seconds) for name, seconds in steps.items()}


def open_circuit(database: Database, *, reason: str, seconds_ago: float) -> None:
    """Open the circuit breaker, as if that many seconds ago."""
    with database.write() as session:
        circuit_breaker.open_circuit(database, session, reason=reason, detail="secret detail", seconds=30)
        session.exec(update(CircuitBreakerRow).values(since=utcnow() - timedelta(seconds=seconds_ago)))


def test_a_fresh_database_lacks_only_the_scheduler(database: Database) -> None:
    """All other checks succeed at once."""
    results = readiness_checks.run_database_checks(database)

    assert [name for name, text in results.items() if text != readiness_checks.OK] == ["clock"]


@pytest.mark.parametrize(("seconds_ago", "is_ok"), [(0, True), (25, True), (35, False)])
def test_the_scheduler_has_a_recent_heartbeat(database: Database, seconds_ago: float, *, is_ok: bool) -> None:
    """At most 30 s old, from any machine."""
    row_factory.store(database, ran(seconds_ago))

    assert is_ok == (readiness_checks.check_clock(database) is None)


def test_another_lease_is_no_heartbeat(database: Database) -> None:
    """Only the scheduler's own lease counts, and only with a finished pass."""
    row_factory.store(database, TaskLeaseRow(name="sweep", holder="x", until=utcnow(), ran_at=utcnow()))
    row_factory.store(database, TaskLeaseRow(name="clock", holder="x", until=utcnow()))

    assert "clock" in (readiness_checks.check_clock(database) or "")


def test_a_database_that_is_not_migrated_is_named(database: Database) -> None:
    """With the command that migrates it; the later checks are unknown, not failed."""
    migrations.downgrade(database.engine, "base")

    results = readiness_checks.run_database_checks(database)

    expected = {"database": "ok", "clock": "unknown", "backlog": "unknown", "meld": "unknown"}
    assert expected == {name: text for name, text in results.items() if name != "migrations"}
    assert "meldwatch migrate" in results["migrations"]


def test_an_unreachable_database_hides_the_rest(unreachable_database: Database) -> None:
    """Only the database is named, not everything that depends on it."""
    results = readiness_checks.run_database_checks(unreachable_database)

    assert "does not answer" in results.pop("database")
    assert dict.fromkeys(("migrations", "clock", "backlog", "meld"), "unknown") == results


@pytest.mark.parametrize(
    ("completed", "steps", "is_ok"),
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
def test_no_due_read_waits_for_long(
    database: Database, completed: int, steps: dict[str, float], *, is_ok: bool
) -> None:
    """No read that is pending, due and free waits for more than 300 s."""
    row_factory.store(database, row_factory.read_request(requested=1, completed=completed, **in_seconds(**steps)))

    assert is_ok == (readiness_checks.check_backlog(database) is None)


def test_an_open_circuit_excuses_the_backlog(database: Database) -> None:
    """No read can begin then; the check ``meld`` reports it."""
    row_factory.store(database, row_factory.read_request(requested=1, **in_seconds(due_at=-9000)))
    open_circuit(database, reason="throttled", seconds_ago=1)

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
def test_a_long_open_circuit_is_named(
    database: Database, reason: str, seconds_ago: float, expected: str | None
) -> None:
    """Refused credentials at once, other reasons after 300 s; Meld's own text is not shown."""
    open_circuit(database, reason=reason, seconds_ago=seconds_ago)

    results = readiness_checks.check_meld(database)

    assert (expected is None) == (results is None)
    assert (expected or "") in (results or "")
    assert "secret detail" not in (results or "")


def test_a_closed_circuit_is_ok(database: Database) -> None:
    """After a good answer the check succeeds."""
    open_circuit(database, reason="refused", seconds_ago=900)
    with database.write() as session:
        circuit_breaker.close_circuit(session)

    assert readiness_checks.check_meld(database) is None


def test_readiness_writes_nothing(database: Database) -> None:
    """It succeeds while another session holds SQLite's only write lock."""
    row_factory.store(database, ran(0))

    with database.write() as session:
        session.exec(update(TaskLeaseRow).where(col(TaskLeaseRow.name) == "clock").values(holder="x"))
        results = readiness_checks.run_database_checks(database)

    assert {"ok"} == set(results.values())
