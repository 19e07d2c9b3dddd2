"""Tables ``delivery`` and ``delivery_queue``: the outbox, and the queue of each subscription and connection."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index, text
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class DeliveryQueueRow(SQLModel, table=True):
    """The delivery queue of one subscription and one connection. While ``due_at`` is set, deliveries are pending.

    Only the holder of the lease may push, always the first pending delivery, so that events arrive in order.
    """

    __tablename__ = "delivery_queue"
    __table_args__ = (
        Index(
            "ix_delivery_queue_due",
            "subscription_id",
            "due_at",
            sqlite_where=text("due_at IS NOT NULL"),
            postgresql_where=text("due_at IS NOT NULL"),
        ),
    )

    subscription_id: str = Field(sa_type=Key, primary_key=True)
    connection_id: str = Field(sa_type=Key, primary_key=True)
    due_at: datetime | None = None
    lease_token: str | None = None
    leased_until: datetime | None = None


class DeliveryRow(SQLModel, table=True):
    """The delivery of an event to a subscription; one more row for each replay of the event.

    The deliveries of a queue are pushed in the order of ``id``. ``outcomes`` has the result of each attempt.
    """

    __tablename__ = "delivery"
    __table_args__ = (
        Index(
            "ix_delivery_live",
            "subscription_id",
            "position",
            unique=True,
            sqlite_where=text("replay_id IS NULL"),
            postgresql_where=text("replay_id IS NULL"),
        ),
        Index(
            "ix_delivery_replayed",
            "subscription_id",
            "replay_id",
            "position",
            unique=True,
            sqlite_where=text("replay_id IS NOT NULL"),
            postgresql_where=text("replay_id IS NOT NULL"),
        ),
        Index(
            "ix_delivery_pending",
            "subscription_id",
            "connection_id",
            "id",
            sqlite_where=text("delivered_at IS NULL AND dead_at IS NULL"),
            postgresql_where=text("delivered_at IS NULL AND dead_at IS NULL"),
        ),
        Index(
            "ix_delivery_dead",
            "subscription_id",
            sqlite_where=text("dead_at IS NOT NULL"),
            postgresql_where=text("dead_at IS NOT NULL"),
        ),
        Index("ix_delivery_connection_id_id", "connection_id", "id"),
        Index("ix_delivery_event_id", "event_id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(Big, primary_key=True, autoincrement=True))
    subscription_id: str = Field(sa_type=Key)
    connection_id: str = Field(sa_type=Key)
    position: int = Field(sa_column=Column(Big, nullable=False))
    event_id: str = Field(sa_type=Key)
    type: str
    created_at: datetime
    attempts: int = 0
    tried_at: datetime | None = None
    delivered_at: datetime | None = None
    dead_at: datetime | None = None
    error: str | None = None
    outcomes: list[dict[str, Any]] = Field(sa_column=Column(Document, nullable=False))
    replay_id: str | None = Field(default=None, sa_type=Key)
