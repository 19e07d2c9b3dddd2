"""Tables ``event`` and ``feed_counter``: the feed of internal events, and the counter of its positions."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class EventRow(SQLModel, table=True):
    """An event. ``position`` is its place in the whole feed, ``sequence`` its place among its connection's events."""

    __tablename__ = "event"
    __table_args__ = (
        UniqueConstraint("connection_id", "sequence"),
        Index("ix_event_type_position", "type", "position"),
        # For the history, in the order of observations: an event that a rebuild appended later has its right place.
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


class FeedCounterRow(SQLModel, table=True):
    """A counter that transactions increment in commit order. ``feed`` is the last position in use."""

    __tablename__ = "feed_counter"

    name: str = Field(primary_key=True)
    value: int = Field(sa_column=Column(Big, nullable=False))
