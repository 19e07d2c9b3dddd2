from datetime import timedelta

from runtime.clock import utcnow
from runtime.database import Database
from service.monitoring import read_backlog
from tests.support import row_factory


def test_nothing_is_due_at_first(database: Database) -> None:
    """No read, no age."""
    with database.read() as session:
        measured = read_backlog.measure(database, session)

    assert read_backlog.ReadBacklog(due=0, oldest_seconds=0) == measured


def test_due_reads_are_counted(database: Database) -> None:
    """Pending, due and free reads; not those that are completed, due later, dead or leased."""
    now = utcnow()
    past, future = now - timedelta(seconds=60), now + timedelta(seconds=60)
    older = now - timedelta(seconds=90)
    row_factory.store(
        database,
        row_factory.read_request("due", requested=1, due_at=past),
        row_factory.read_request("oldest", requested=3, completed=1, due_at=older),
        row_factory.read_request("lease ran out", requested=1, due_at=past, leased_until=past),
        row_factory.read_request("leased", requested=1, due_at=older - timedelta(hours=1), leased_until=future),
        row_factory.read_request("done", requested=1, completed=1, due_at=older - timedelta(hours=1)),
        row_factory.read_request("later", requested=1, due_at=future),
        row_factory.read_request("dead", requested=1, failed_at=past),
    )

    with database.read() as session:
        measured = read_backlog.measure(database, session)

    assert (measured.due, 90 <= measured.oldest_seconds < 100) == (3, True)
