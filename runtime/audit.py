"""Audit log: append an entry for an operator action, in the transaction of the action itself."""

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
    """Append an audit entry; return its row, so that details that become known later can be added.

    Args:
        database: The database.
        session: The transaction of the action.
        who: The name of a token, or of a user of this machine.
        act: The action, a noun and a verb, such as ``subscription.rotated``.
        subject: The id or name of the object of the action.
        connection_id: The connection that the action concerns, if any; the entry appears in its timeline.
        details: Further details, without secrets.
    """
    at = session.exec(select(database.now())).one()
    row = AuditRow(at=at, who=who, act=act, subject=subject, connection_id=connection_id, details=dict(details or {}))
    session.add(row)
    return row
