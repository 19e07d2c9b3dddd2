"""The database's rows: what is stored, and what one row of each table means.

These classes are rows and nothing else: they are never parsed into (``table=True`` does not validate) and never sent
out. Steps are nullable timestamps, so that no status column can contradict them. No foreign keys: retention removes
old rows of one table while others keep naming them. The rows about subscriptions are in ``outbox.py``, those of
operators and refusals in ``records.py``, those that stand for what was removed in ``remains.py``; they are here for
whoever asks.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from schemas.columns import METADATA, Big, Document, Key
from schemas.outbox import Delivery, Lane, Subscription
from schemas.records import Audit, Rejection, Replay
from schemas.remains import Baseline, Floor

__all__ = [
    "METADATA",
    "Audit",
    "Baseline",
    "Connection",
    "Counter",
    "Delivery",
    "Event",
    "Floor",
    "Gate",
    "Job",
    "Lane",
    "Lease",
    "Observation",
    "Rejection",
    "Replay",
    "Subscription",
    "Sweep",
    "Webhook",
]


class Webhook(SQLModel, table=True):
    """A verified delivery, exactly as it came: the inbox. A repeat of ``event_id`` only counts ``deliveries`` up.

    ``sealed_with`` tells the key that ``body`` is encrypted with, null for none; ``emptied_at`` is when retention
    removed body and headers.
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
        # Ids are never used again, also not after retention removed the newest row.
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
    sealed_with: str | None = None
    emptied_at: datetime | None = None


class Job(SQLModel, table=True):
    """The work owed to one connection: ``requested > completed`` means that a read of Meld is owed.

    ``depth`` is how far the wish came through siblings: 0 from outside, 1 from a connection that was read for a wish
    from outside, and so on. ``rechecks`` counts the reads owed to disagreement alone. ``replay_id`` is the replay that
    asked last, where the trigger is one.
    """

    __tablename__ = "job"
    __table_args__ = (
        Index(
            "ix_job_due",
            "due_at",
            sqlite_where=text("requested > completed"),
            postgresql_where=text("requested > completed"),
        ),
        Index(
            "ix_job_dead",
            "failed_at",
            sqlite_where=text("failed_at IS NOT NULL"),
            postgresql_where=text("failed_at IS NOT NULL"),
        ),
    )

    connection_id: str = Field(sa_type=Key, primary_key=True)
    requested: int = Field(default=0, sa_column=Column(Big, nullable=False))
    completed: int = Field(default=0, sa_column=Column(Big, nullable=False))
    trigger: str
    raised_at: datetime
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


class Connection(SQLModel, table=True):
    """The mirror of one Meld connection, with Meld's whole answer in ``document``, its secrets removed.

    ``grouped_at`` is when the read began that last changed its primary or its duplicates; ``sweep_id`` the last
    reconcile that found it in Meld's list.
    """

    __tablename__ = "connection"
    __table_args__ = (
        Index(
            "ix_connection_grouped",
            "primary_duplicate_id",
            sqlite_where=text("primary_duplicate_id IS NOT NULL"),
            postgresql_where=text("primary_duplicate_id IS NOT NULL"),
        ),
    )

    id: str = Field(sa_type=Key, primary_key=True)
    account_id: str
    customer_id: str | None = Field(default=None, index=True)
    external_customer_id: str | None = Field(default=None, index=True)
    institution_id: str | None = Field(default=None, index=True)
    institution_name: str | None = None
    status: str = Field(index=True)
    status_reason: str | None = None
    primary_duplicate_id: str | None = None
    duplicate_ids: list[str] = Field(sa_column=Column(Document, nullable=False))
    products: list[str] = Field(sa_column=Column(Document, nullable=False))
    optional_products: list[str] = Field(sa_column=Column(Document, nullable=False))
    regions: list[str] = Field(sa_column=Column(Document, nullable=False))
    service_provider: str | None = None
    service_provider_details: dict[str, Any] = Field(sa_column=Column(Document, nullable=False))
    created_at: datetime | None = None
    aggregated_at: datetime | None = None
    observed_at: datetime
    checked_at: datetime = Field(index=True)
    sequence: int = Field(default=0, sa_column=Column(Big, nullable=False))
    digest: str
    document: dict[str, Any] = Field(sa_column=Column(Document, nullable=False))
    grouped_at: datetime | None = None
    sweep_id: int | None = Field(default=None, sa_column=Column(Big))


class Observation(SQLModel, table=True):
    """A read that saw something new. Append-only: folding a connection's observations gives its mirror and events.

    ``account_id`` is as it was stored in the mirror: an answer need not name the account.
    """

    __tablename__ = "observation"
    __table_args__ = (
        Index("ix_observation_connection_id_id", "connection_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(Big, primary_key=True, autoincrement=True))
    connection_id: str = Field(sa_type=Key)
    account_id: str
    generation: int = Field(sa_column=Column(Big, nullable=False))
    trigger: str
    webhook_event_ids: list[str] = Field(sa_column=Column(Document, nullable=False))
    began_at: datetime
    ended_at: datetime
    found: bool
    digest: str
    document: dict[str, Any] = Field(sa_column=Column(Document, nullable=False))
    replay_id: str | None = Field(default=None, sa_type=Key)


class Event(SQLModel, table=True):
    """An internal event. ``position`` is its place in the whole feed, ``sequence`` its place in its connection's."""

    __tablename__ = "event"
    __table_args__ = (
        UniqueConstraint("connection_id", "sequence"),
        Index("ix_event_type_position", "type", "position"),
        # Beside the observations, in their order: an event that was appended later stands where it belongs.
        Index("ix_event_history", "connection_id", "observation_id", "position"),
    )

    position: int = Field(sa_column=Column(Big, primary_key=True, autoincrement=False))
    id: str = Field(sa_type=Key, unique=True)
    connection_id: str = Field(sa_type=Key)
    sequence: int = Field(sa_column=Column(Big, nullable=False))
    type: str
    account_id: str
    time: datetime
    observation_id: int = Field(sa_column=Column(Big, nullable=False))
    data: dict[str, Any] = Field(sa_column=Column(Document, nullable=False))


class Sweep(SQLModel, table=True):
    """A reconcile: how far it has come through Meld's list, and the drift that it found, by kind."""

    __tablename__ = "sweep"

    id: int | None = Field(default=None, sa_column=Column(Big, primary_key=True, autoincrement=True))
    started_at: datetime
    finished_at: datetime | None = None
    after: str | None = None
    pages: int = 0
    listed: int = 0
    unreadable: int = 0
    unseen: int = 0
    changed: int = 0
    missing: int = 0
    examples: dict[str, list[str]] = Field(sa_column=Column(Document, nullable=False))


class Counter(SQLModel, table=True):
    """A number that is taken in commit order. ``feed`` is the last position in use."""

    __tablename__ = "counter"

    name: str = Field(primary_key=True)
    value: int = Field(sa_column=Column(Big, nullable=False))


class Gate(SQLModel, table=True):
    """The shared pause on reads of Meld: while ``paused_until`` lies ahead, nobody begins a read.

    ``failures`` counts answers that speak of Meld, not of one connection, since the last good one.
    """

    __tablename__ = "gate"

    name: str = Field(primary_key=True)
    failures: int = 0
    connection_id: str | None = None
    reason: str | None = None
    detail: str | None = None
    since: datetime | None = None
    paused_until: datetime | None = None


class Lease(SQLModel, table=True):
    """Who does a thing that only one process may do at a time, until when, and when it was last done."""

    __tablename__ = "lease"

    name: str = Field(primary_key=True)
    holder: str
    until: datetime
    ran_at: datetime | None = None
