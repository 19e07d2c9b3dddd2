"""Audit: an operator's act is noted in the transaction that does it, so that there is none without the other."""

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session, select

from runtime.database import Database
from schemas.tables import AuditRow


def append_entry(
    database: Database,
    session: Session,
    *,
    who: str,
    act: str,
    subject: str | None = None,
    connection_id: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> AuditRow:
    """Write down what an operator does; return the row, for an act whose details are known only by and by.

    Args:
        database: The database.
        session: The transaction of the act.
        who: The name of a token, or of a user of this machine.
        act: What is done: a noun and a verb, as ``subscription.rotated``.
        subject: To what, by its id or its name.
        connection_id: The connection, where it is one; then it stands in that connection's timeline.
        details: What else there is to say of it; never a secret.
    """
    at = session.exec(select(database.now())).one()
    row = AuditRow(at=at, who=who, act=act, subject=subject, connection_id=connection_id, details=dict(details or {}))
    session.add(row)
    return row
