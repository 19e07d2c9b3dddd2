"""Table ``audit``: the actions of operators (the audit log)."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class AuditRow(SQLModel, table=True):
    """An audit entry: which operator action was done when, by whom, and on which object.

    Append-only, and written in the transaction of the action itself.
    """

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_connection_id_id", "connection_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(Big, primary_key=True, autoincrement=True))
    at: datetime
    who: str
    act: str
    subject: str | None = None
    connection_id: str | None = Field(default=None, sa_type=Key)
    details: dict[str, Any] = Field(sa_column=Column(Document, nullable=False))
