from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from runtime.database import Database
from schemas.tables import ConnectionRow, ReadRequestRow
from service.scheduler.loop import Scheduler
from service.scheduler.overdue_connections import request_stale_reads
from tests.support.row_factory import connection

WEEK = 7 * 86400.0
NOW = datetime.now(UTC)
HOUR_AGO = {"checked_at": NOW - timedelta(hours=1)}


def store_connection(database: Database, id_: str, *, requested: int = 0, **fields: Any) -> None:
    row = connection(id_, **{"created_at": NOW, "checked_at": NOW, "status": "ACTIVE", **fields})
    job = ReadRequestRow(
        connection_id=id_, trigger="webhook", requested_at=NOW, requested=requested, completed=0, due_at=None
    )
    with database.write() as session:
        session.add(row)
        session.add(job)


def overdue(database: Database, fresh_seconds: float = WEEK) -> Sequence[str]:
    with database.write() as session:
        return sorted(request_stale_reads(database, session, fresh_seconds=fresh_seconds))


@pytest.mark.parametrize(
    ("fields", "is_requested"),
    [
        (
            {"status": "IN_PROGRESS", "created_at": NOW - timedelta(hours=5), "checked_at": NOW - timedelta(hours=1)},
            True,
        ),
        (
            {"status": "IN_PROGRESS", "created_at": NOW - timedelta(hours=3), "checked_at": NOW - timedelta(hours=1)},
            False,
        ),
        # Far enough ahead: NOW is the time of the import, and a run of all tests takes long.
        (
            {"status": "IN_PROGRESS", "created_at": NOW - timedelta(hours=5), "checked_at": NOW + timedelta(hours=1)},
            False,
        ),
        (
            {"status": "IN_PROGRESS", "created_at": None, "observed_at": NOW - timedelta(hours=5), **HOUR_AGO},
            True,
        ),
        (
            {"status": "IN_PROGRESS", "created_at": None, "observed_at": NOW - timedelta(hours=3), **HOUR_AGO},
            False,
        ),
        ({"status": "ACTIVE", "created_at": NOW - timedelta(hours=5), "checked_at": NOW - timedelta(hours=1)}, False),
        ({"status": "ACTIVE", "checked_at": NOW - timedelta(days=8)}, True),
        ({"status": "DELETED", "checked_at": NOW - timedelta(days=8)}, False),
        ({"status": "EXPIRED", "checked_at": NOW - timedelta(days=8)}, False),
        ({"status": "ACTIVE", "checked_at": NOW - timedelta(days=8), "requested": 1}, False),
    ],
    ids=[
        "expired",
        "young",
        "just-read",
        "no-creation",
        "no-creation-young",
        "completed",
        "stale",
        "deleted",
        "terminal",
        "pending",
    ],
)
def test_reads_of_stale_connections_are_requested(
    database: Database, fields: dict[str, Any], *, is_requested: bool
) -> None:
    """Reads are requested of connections that should have expired, or were last read a week ago; not of others."""
    store_connection(database, "c1", **fields)

    assert overdue(database) == (["c1"] if is_requested else [])


def test_the_maximum_age_can_be_turned_off(database: Database) -> None:
    """With 0 no connection is read again because of its age."""
    store_connection(database, "c1", checked_at=NOW - timedelta(days=800))

    assert overdue(database, 0) == []


def test_the_oldest_come_first_in_batches(database: Database) -> None:
    """A thousand overdue connections are read over time, the oldest first."""
    for number in range(60):
        store_connection(database, f"c{number:02}", checked_at=NOW - timedelta(days=8, minutes=number))

    assert overdue(database) == [f"c{number:02}" for number in range(10, 60)]


def test_the_scheduler_requests_stale_reads(database: Database) -> None:
    """A pass of the scheduler requests stale reads with the trigger ``clock``, which events then show."""
    store_connection(database, "c1", checked_at=NOW - timedelta(days=8))
    calls: list[str] = []

    Scheduler(
        database=database, notify_readers=calls.extend, notify_dispatchers=calls.extend, holder="me", fresh_seconds=WEEK
    ).run_once()

    with database.read() as session:
        triggers = session.exec(select(ReadRequestRow.trigger).where(col(ReadRequestRow.requested) > 0)).all()
    assert (calls, triggers) == (["c1"], ["clock"])


def test_connections_without_a_read_request_are_ignored(database: Database) -> None:
    """A connection row without a read request does not fail the pass."""
    with database.write() as session:
        session.add(connection("c1", checked_at=NOW - timedelta(days=8)))

    assert overdue(database) == []
    with database.read() as session:
        assert session.get(ConnectionRow, "c1") is not None
