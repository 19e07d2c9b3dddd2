"""GET /api/deliveries: list the deliveries of events to subscriptions, with the result of each attempt."""

from functools import partial

from sqlalchemy import ColumnElement, and_
from sqlmodel import col, select

from runtime.database import Database
from schemas.api_queries import DeliveryQuery
from schemas.api_responses import DeliveryPage
from schemas.subscriptions import Delivery, DeliveryState
from schemas.tables import DeliveryRow
from service.http.operation import Operation
from service.http.pagination import PagedList, equal
from service.http.threadpool import ThreadPool


def in_state(state: DeliveryState) -> ColumnElement[bool]:
    """Return the condition that a delivery is in a state, by ``schemas.subscriptions.get_delivery_state``."""
    delivered = col(DeliveryRow.delivered_at).is_not(None)
    dead = col(DeliveryRow.dead_at).is_not(None)
    conditions = {"delivered": delivered, "dead": and_(~delivered, dead), "pending": and_(~delivered, ~dead)}
    return conditions[state]


DELIVERIES = PagedList(
    statement=select(DeliveryRow),
    key=col(DeliveryRow.id),
    query_model=DeliveryQuery,
    filters={
        "subscription_id": equal(DeliveryRow.subscription_id),
        "connection_id": equal(DeliveryRow.connection_id),
        "event_id": equal(DeliveryRow.event_id),
        "state": in_state,
    },
    page_model=DeliveryPage,
    to_item=Delivery.from_row,
)


def operations(database: Database, threads: ThreadPool) -> tuple[Operation, ...]:
    """Return the API operations of deliveries."""
    return (
        DELIVERIES.operation(
            partial(DELIVERIES.get_page, database),
            threads,
            path="/api/deliveries",
            operation_id="listDeliveries",
            summary="List the deliveries of events to subscriptions, with the result of each attempt, oldest first.",
        ),
    )
