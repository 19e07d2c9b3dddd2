"""Table ``rejection``: refused requests to the webhook route."""

from datetime import datetime

from sqlalchemy import Column, Index, LargeBinary, text
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class RejectionRow(SQLModel, table=True):
    """A refused webhook, kept so that it can be verified again when the cause is corrected. Bounded in number.

    ``digest`` covers body and reason: a repetition, such as a retry of Meld's, only increments ``times`` and replaces
    the other columns. ``body`` is the beginning of the body, or all of it if ``size`` is below the limit;
    ``encrypted_with`` is the name of its key, null if it is not encrypted. ``off_seconds`` is the age of the signature,
    negative for the future, null if it cannot be parsed. ``is_likely`` marks requests in the form of Meld's
    webhooks. ``event_id`` is the id in the body, or the one that the webhook was admitted with.
    """

    __tablename__ = "rejection"
    __table_args__ = (
        Index("ix_rejection_reason_id", "reason", "id"),
        Index("ix_rejection_received_at", "received_at"),
        Index(
            "ix_rejection_unlikely",
            "reason",
            "id",
            sqlite_where=text("is_likely = 0"),
            postgresql_where=text("NOT is_likely"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(Big, primary_key=True, autoincrement=True))
    digest: str = Field(sa_type=Key, unique=True)
    reason: str = Field(sa_type=Key)
    first_at: datetime
    received_at: datetime
    times: int = 1
    off_seconds: float | None = None
    size: int
    headers: dict[str, str] = Field(sa_column=Column(Document, nullable=False))
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    encrypted_with: str | None = None
    is_likely: bool
    type: str | None = None
    admitted_at: datetime | None = None
    event_id: str | None = Field(default=None, sa_type=Key)
