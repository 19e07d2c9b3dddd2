"""Tables of the inbox: webhooks as received, and the read request of each connection."""

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


class ReadRequestRow(SQLModel, table=True):
    """The read request of a connection: while ``requested > completed``, a read of Meld is pending.

    ``requested`` and ``completed`` are generations: a read completes the generation that it leased (fencing token).
    ``woken_at`` is when a worker was last notified. ``depth`` is over how many siblings the request came: 0 from
    outside, 1 from a connection that was read for a request from outside, and so on. ``rechecks`` counts the reads that
    were requested only because of a disagreement. ``failed_at`` marks a dead read. ``replay_id`` is the replay that
    requested the read last, if the trigger is a replay.
    """

    __tablename__ = "read_request"
    __table_args__ = (
        Index(
            "ix_read_request_due",
            "due_at",
            sqlite_where=text("requested > completed"),
            postgresql_where=text("requested > completed"),
        ),
        Index(
            "ix_read_request_dead",
            "failed_at",
            sqlite_where=text("failed_at IS NOT NULL"),
            postgresql_where=text("failed_at IS NOT NULL"),
        ),
    )

    connection_id: str = Field(sa_type=Key, primary_key=True)
    requested: int = Field(default=0, sa_column=Column(Big, nullable=False))
    completed: int = Field(default=0, sa_column=Column(Big, nullable=False))
    trigger: str
    requested_at: datetime
    due_at: datetime | None = None
    woken_at: datetime | None = None
    attempts: int = 0
    depth: int = 0
    rechecks: int = 0
    lease_token: str | None = None
    leased_until: datetime | None = None
    failed_at: datetime | None = None
    error: str | None = None
    replay_id: str | None = Field(default=None, sa_type=Key)
