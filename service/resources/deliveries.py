"""Deliveries: what was pushed to whom, and what came of it."""

from sqlalchemy import ColumnElement, and_
from sqlmodel import col, select

from runtime.database import Database
from schemas import tables
from schemas.api_queries import DeliveryQuery
from schemas.api_responses import DeliveryPage
from schemas.subscriptions import Delivery, DeliveryState
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool

FILTERS = ("subscription_id", "connection_id", "event_id")


class Deliveries:
    """The operations on deliveries.

    Args:
        database: The database.
        threads: Where the work is done.
    """

    def __init__(self, *, database: Database, threads: ThreadPool) -> None:
        self._database = database
        self._threads = threads

    def find(self, query: DeliveryQuery) -> DeliveryPage:
        """Return a page of deliveries, in the order in which they were owed."""
        statement = select(tables.DeliveryRow).order_by(col(tables.DeliveryRow.id))
        for name in FILTERS:
            if (value := getattr(query, name)) is not None:
                statement = statement.where(getattr(tables.DeliveryRow, name) == value)
        if query.state is not None:
            statement = statement.where(in_state(query.state))
        if query.after is not None:
            statement = statement.where(col(tables.DeliveryRow.id) > int(query.after))
        with self._database.read() as session:
            # One more than the page tells whether there is a next one.
            rows = session.exec(statement.limit(query.limit + 1)).all()
        page = [Delivery.from_row(row) for row in rows[: query.limit]]
        return DeliveryPage(deliveries=page, next=str(page[-1].id) if len(rows) > query.limit else None)

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked of the API."""
        return (
            Operation(
                method="GET",
                path="/api/deliveries",
                name="listDeliveries",
                summary="What was pushed to whom, with what came of every attempt, in the order in which it was owed.",
                need="read",
                query=DeliveryQuery,
                answers=(ResponseSpec(description="A page of deliveries.", shape=DeliveryPage),),
                handle=self._threads.handler(lambda _request, query: self.find(query)),
            ),
        )


def in_state(state: DeliveryState) -> ColumnElement[bool]:
    """Return the condition that a delivery is in a state; they are those of ``schemas.subscriptions.state_of``."""
    delivered = col(tables.DeliveryRow.delivered_at).is_not(None)
    dead = col(tables.DeliveryRow.dead_at).is_not(None)
    conditions = {"delivered": delivered, "dead": and_(~delivered, dead), "pending": and_(~delivered, ~dead)}
    return conditions[state]
