"""Table ``lease``: which process runs a task that only one may run at a time."""

from datetime import datetime

from sqlmodel import Field, SQLModel


class TaskLeaseRow(SQLModel, table=True):
    """The lease of a task that one process at a time may run: its holder, its end, and the time of the last run."""

    __tablename__ = "lease"

    name: str = Field(primary_key=True)
    holder: str
    until: datetime
    ran_at: datetime | None = None
