"""Table ``webhook``: verified webhooks as they were received (the inbox), with their processing state."""

from datetime import datetime

from sqlalchemy import Column, Index, LargeBinary, text
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class WebhookRow(SQLModel, table=True):
    """A verified webhook, exactly as received. A repetition of ``event_id`` only increments ``deliveries``.

    ``encrypted_with`` is the name of the key of ``body``, null if it is not encrypted. ``emptied_at`` is when
    retention cleared body and headers. ``hint_status`` and ``hint_reason`` are the status that the body announces.
    """

    __tablename__ = "webhook"
    __table_args__ = (
        Index("ix_webhook_connection_id_id", "connection_id", "id"),
        Index(
            "ix_webhook_pending",
            "connection_id",
            sqlite_where=text("processed_at IS NULL AND ignored_at IS NULL"),
            postgresql_where=text("processed_at IS NULL AND ignored_at IS NULL"),
        ),
        Index(
            "ix_webhook_hint",
            "connection_id",
            "occurred_at",
            sqlite_where=text("hint_status IS NOT NULL"),
            postgresql_where=text("hint_status IS NOT NULL"),
        ),
        Index("ix_webhook_received_at", "received_at"),
        # Ids are never reused, not even after retention deleted the newest row.
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(Big, primary_key=True, autoincrement=True))
    event_id: str = Field(sa_type=Key, unique=True)
    type: str | None = None
    account_id: str | None = None
    connection_id: str | None = Field(default=None, sa_type=Key)
    hint_status: str | None = None
    hint_reason: str | None = None
    occurred_at: datetime | None = None
    signed_at: datetime
    received_at: datetime
    url: str
    headers: dict[str, str] = Field(sa_column=Column(Document, nullable=False))
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    deliveries: int = 1
    delivered_at: datetime
    processed_at: datetime | None = None
    ignored_at: datetime | None = None
    failed_at: datetime | None = None
    error: str | None = None
    encrypted_with: str | None = None
    emptied_at: datetime | None = None
