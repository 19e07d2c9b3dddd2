"""Table ``connection``: the mirror, one row for each connection as it was last read."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index, text
from sqlmodel import Field, SQLModel

from schemas.tables.column_types import Big, Document, Key


class ConnectionRow(SQLModel, table=True):
    """The mirror of one Meld connection. ``document`` is Meld's whole response without credentials.

    ``grouped_at`` is the start of the read that last changed the primary or the duplicates. ``reconcile_run_id`` is the
    last reconcile run that found the connection in Meld's list.
    """

    __tablename__ = "connection"
    __table_args__ = (
        Index(
            "ix_connection_grouped",
            "primary_duplicate_id",
            sqlite_where=text("primary_duplicate_id IS NOT NULL"),
            postgresql_where=text("primary_duplicate_id IS NOT NULL"),
        ),
    )

    id: str = Field(sa_type=Key, primary_key=True)
    account_id: str
    customer_id: str | None = Field(default=None, index=True)
    external_customer_id: str | None = Field(default=None, index=True)
    institution_id: str | None = Field(default=None, index=True)
    institution_name: str | None = None
    status: str = Field(index=True)
    status_reason: str | None = None
    primary_duplicate_id: str | None = None
    duplicate_ids: list[str] = Field(sa_column=Column(Document, nullable=False))
    products: list[str] = Field(sa_column=Column(Document, nullable=False))
    optional_products: list[str] = Field(sa_column=Column(Document, nullable=False))
    regions: list[str] = Field(sa_column=Column(Document, nullable=False))
    service_provider: str | None = None
    service_provider_details: dict[str, Any] = Field(sa_column=Column(Document, nullable=False))
    created_at: datetime | None = None
    aggregated_at: datetime | None = None
    observed_at: datetime
    checked_at: datetime = Field(index=True)
    sequence: int = Field(default=0, sa_column=Column(Big, nullable=False))
    digest: str
    document: dict[str, Any] = Field(sa_column=Column(Document, nullable=False))
    grouped_at: datetime | None = None
    reconcile_run_id: int | None = Field(default=None, sa_column=Column("sweep_id", Big, key="reconcile_run_id"))
