"""Tables of coordination between processes: reconcile runs, the circuit breaker before Meld, leases of tasks."""

from datetime import datetime

from sqlalchemy import Column
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document


class ReconcileRunRow(SQLModel, table=True):
    """A reconcile: how far it has come through Meld's list, and the drift that it found, by kind."""

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


class CircuitBreakerRow(SQLModel, table=True):
    """The shared pause on reads of Meld: while ``paused_until`` lies ahead, nobody begins a read.

    ``failures`` counts answers that speak of Meld, not of one connection, since the last good one.
    """

    __tablename__ = "circuit_breaker"

    name: str = Field(primary_key=True)
    failures: int = 0
    connection_id: str | None = None
    reason: str | None = None
    detail: str | None = None
    since: datetime | None = None
    paused_until: datetime | None = None


class TaskLeaseRow(SQLModel, table=True):
    """Who does a thing that only one process may do at a time, until when, and when it was last done."""

    __tablename__ = "lease"

    name: str = Field(primary_key=True)
    holder: str
    until: datetime
    ran_at: datetime | None = None
