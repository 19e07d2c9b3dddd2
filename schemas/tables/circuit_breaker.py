"""Table ``circuit_breaker``: the shared pause of all reads of Meld."""

from datetime import datetime

from sqlmodel import Field, SQLModel


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
