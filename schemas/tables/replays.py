"""Table ``replay``: replays of webhooks and events, with their progress."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


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
