"""The rows that stand for what retention removed of a connection's past: where its fold and its events begin."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class BaselineRow(SQLModel, table=True):
    """What a connection's oldest observations amounted to, up to and including ``observation_id``: a fold begins here.

    What lies before may be removed: neither its observations nor their events are looked for any more. ``mirror`` is
    the row of ``connection`` as it was then; its ``sequence`` is the highest that events up to there have.
    """

    __tablename__ = "baseline"

    connection_id: str = Field(sa_type=Key, primary_key=True)
    observation_id: int = Field(sa_column=Column(Big, nullable=False))
    ended_at: datetime
    mirror: dict[str, Any] = Field(sa_column=Column(Document, nullable=False))


class EventBaselineRow(SQLModel, table=True):
    """Where a connection's events begin: those of its observations up to and including ``observation_id`` are gone.

    They are not looked for any more, also where the observations are still there. ``sequence`` is the highest that
    they had.
    """

    __tablename__ = "event_baseline"

    connection_id: str = Field(sa_type=Key, primary_key=True)
    observation_id: int = Field(sa_column=Column(Big, nullable=False))
    sequence: int = Field(sa_column=Column(Big, nullable=False))
