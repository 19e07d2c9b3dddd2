"""Tables ``baseline`` and ``event_baseline``: what stands for the observations and events that retention removed."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class BaselineRow(SQLModel, table=True):
    """The projection of a connection's observations up to and including ``observation_id``; projections begin here.

    Earlier observations and their events may be deleted; they are not used any more. ``mirror`` is the row of
    ``connection`` at that time; its ``sequence`` is the highest of the events up to then.
    """

    __tablename__ = "baseline"

    connection_id: str = Field(sa_type=Key, primary_key=True)
    observation_id: int = Field(sa_column=Column(Big, nullable=False))
    ended_at: datetime
    mirror: dict[str, Any] = Field(sa_column=Column(Document, nullable=False))


class EventBaselineRow(SQLModel, table=True):
    """The beginning of a connection's events: those of observations up to and including ``observation_id`` are deleted.

    They are not expected any more, even if the observations still exist. ``sequence`` is the highest that they had.
    """

    __tablename__ = "event_baseline"

    connection_id: str = Field(sa_type=Key, primary_key=True)
    observation_id: int = Field(sa_column=Column(Big, nullable=False))
    sequence: int = Field(sa_column=Column(Big, nullable=False))
