"""Table ``reconcile_run``: runs of the reconcile, with their progress and drift."""

from datetime import datetime

from sqlalchemy import Column
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document


class ReconcileRunRow(SQLModel, table=True):
    """A reconcile run: its progress through Meld's list (``after`` is the cursor), and the drift it found, by kind."""

    __tablename__ = "reconcile_run"

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
