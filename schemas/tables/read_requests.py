"""Table ``read_request``: the queue of reads, one row for each connection, with attempts, lease and dead jobs."""

from datetime import datetime

from sqlalchemy import Column, Index, text
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Key


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
