from contextlib import suppress

from sqlmodel import select

from runtime import audit
from runtime.database import Database
from schemas.tables import AuditRow


def test_an_act_is_noted_with_what_it_did(database: Database) -> None:
    """Who, what, when, to what."""
    with database.write() as session:
        audit.append_entry(
            database, session, who="alice", act="connection.refreshed", connection_id="c1", details={"n": 1}
        )

    with database.read() as session:
        row = session.exec(select(AuditRow)).one()
    assert (row.who, row.act, row.connection_id, row.details) == ("alice", "connection.refreshed", "c1", {"n": 1})
    assert row.at.tzinfo is not None


def test_what_was_not_done_is_not_noted(database: Database) -> None:
    """An act that fails takes its note back."""
    with suppress(ZeroDivisionError), database.write() as session:
        audit.append_entry(database, session, who="alice", act="connection.refreshed")
        raise ZeroDivisionError

    with database.read() as session:
        assert session.exec(select(AuditRow)).all() == []
