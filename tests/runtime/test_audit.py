from contextlib import suppress

from sqlmodel import select

from runtime import audit
from runtime.database import Database
from schemas.tables import AuditRow


def test_an_entry_has_actor_action_and_details(database: Database) -> None:
    """The entry records who did what, when, and to which object."""
    with database.write() as session:
        audit.append_entry(
            database, session, who="alice", act="connection.refreshed", connection_id="c1", details={"n": 1}
        )

    with database.read() as session:
        row = session.exec(select(AuditRow)).one()
    assert (row.who, row.act, row.connection_id, row.details) == ("alice", "connection.refreshed", "c1", {"n": 1})
    assert row.at.tzinfo is not None


def test_a_failed_action_leaves_no_entry(database: Database) -> None:
    """The entry is rolled back with the action."""
    with suppress(ZeroDivisionError), database.write() as session:
        audit.append_entry(database, session, who="alice", act="connection.refreshed")
        raise ZeroDivisionError

    with database.read() as session:
        assert session.exec(select(AuditRow)).all() == []
