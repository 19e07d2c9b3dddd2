"""Tables of coordination between processes: reconcile runs, the circuit breaker for Meld, task leases."""

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


class CircuitBreakerRow(SQLModel, table=True):
    """The circuit breaker for reads of Meld: until ``paused_until`` the circuit is open, and no read begins.

    ``failures`` counts the failures since the last good answer that are not due to a single connection;
    ``connection_id`` is the connection of the last one.
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
    """The lease of a task that one process at a time may run: its holder, its end, and the time of the last run."""

    __tablename__ = "lease"

    name: str = Field(primary_key=True)
    holder: str
    until: datetime
    ran_at: datetime | None = None
