"""The rows that operators and refused requests leave behind: rejections, replays, acts. See ``tables.py``."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index, LargeBinary, text
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class RejectionRow(SQLModel, table=True):
    """A refused webhook, kept so that it can be let in once its reason is gone: sampled, and capped in number.

    ``digest`` is of the body with the reason: what comes again, as Meld's retries do, only counts ``times`` up and is
    kept as it came last. ``body`` is its beginning, whole where ``size`` is no more than what is kept; ``encrypted_with``
    tells the key that it is encrypted with, null for none. ``off_seconds`` is how far the signature's time lay in the
    past, or, below 0, in the future; null where no time could be read. ``is_likely`` is one that looks like Meld's;
    ``event_id`` is what its body says, or what it was admitted as.
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


class ReplayRow(SQLModel, table=True):
    """A replay: its selection and its progress. ``after`` is the cursor: the id of a connection.

    ``newest`` is the id of the last webhook, or the last position of the feed, when the replay was created: it covers
    nothing newer. A replay with ``stopped_at`` has to be resumed by an operator. A replay without ``stopped_at`` and
    ``finished_at`` is run by the process that holds its lease, or by the next one that acquires it. A replay with
    ``error`` could not be finished.
    """

    __tablename__ = "replay"

    id: str = Field(sa_type=Key, primary_key=True)
    kind: str
    filter: dict[str, Any] = Field(sa_column=Column(Document, nullable=False))
    subscription_id: str | None = Field(default=None, sa_type=Key)
    rate: float | None = None
    who: str
    created_at: datetime
    newest: int = Field(sa_column=Column(Big, nullable=False))
    after: str = Field(default="", sa_type=Key)
    total: int | None = None
    done: int = 0
    stopped_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None


class AuditRow(SQLModel, table=True):
    """An operator's act: who did what, when, and to what. Append-only, and in the transaction of the act itself."""

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
