"""Table ``subscription``: the consumers of pushed events, with their encrypted secrets."""

from datetime import datetime

from sqlalchemy import Column
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class SubscriptionRow(SQLModel, table=True):
    """A consumer that events are pushed to, with encrypted secrets. Empty ``types`` mean all events.

    A Python handler is a subscription with a ``url`` such as ``python:module.function``. Its pushes are not signed, and
    its ``secret`` is empty.

    Events after the position ``after_position`` of the feed are pushed. ``failing_since`` is the first failure since
    the last acknowledged push. Until its ``until``, each of ``previous_secrets`` (``sealed``) signs beside
    ``secret``. ``woken_at`` is when workers were last notified.
    """

    __tablename__ = "subscription"

    id: str = Field(sa_type=Key, primary_key=True)
    name: str = Field(sa_type=Key, unique=True)
    url: str
    types: list[str] = Field(sa_column=Column(Document, nullable=False))
    secret: str
    previous_secrets: list[dict[str, str]] = Field(default_factory=list, sa_column=Column(Document, nullable=False))
    after_position: int = Field(sa_column=Column(Big, nullable=False))
    created_at: datetime
    paused_at: datetime | None = None
    disabled_at: datetime | None = None
    failing_since: datetime | None = None
    error: str | None = None
    woken_at: datetime | None = None
