"""Table ``observation``: every read that saw something new, append-only."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class ObservationRow(SQLModel, table=True):
    """A read that found a change. Append-only: the mirror and the events are a projection of the observations.

    ``account_id`` is the value in the mirror, because a response need not contain the account.
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
