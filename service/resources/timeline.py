"""GET /api/connections/{id}/timeline: list the history of a connection, merged from several tables in time order.

The page merges webhooks, reads, events, deliveries and audit entries. Each table is read in its own order, by an index,
from where the previous page ended in it. So each page is bounded and the pages fit together, even if the clocks of the
machines that wrote the rows differ.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from itertools import islice, pairwise
from typing import Any

from sqlalchemy import tuple_
from sqlalchemy.orm import Mapped
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from runtime import field_diff
from runtime.database import Database
from schemas.api_queries import TimelineQuery
from schemas.api_resources import AuditEntry, Webhook
from schemas.events import Event
from schemas.subscriptions import Delivery
from schemas.tables import (
    AuditRow,
    BaselineRow,
    ConnectionRow,
    DeliveryRow,
    EventRow,
    ObservationRow,
    WebhookRow,
)
from schemas.timeline import AuditItem, DeliveryItem, EventItem, Read, ReadItem, Timeline, TimelineItem, WebhookItem
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool
from service.resources.connections import is_known, not_found
from service.resources.webhooks import select_webhooks

Views = Callable[[BaselineRow | None, Iterable[ObservationRow]], Iterator[ConnectionRow | None]]
"""Projects a baseline and the observations after it: yields the mirror row before the first one, and after each."""


@dataclass(frozen=True, slots=True)
class TimelinePosition:
    """How far the timeline was read: the last row of each table; of events also the observation that caused it."""

    webhook: int = 0
    observation: int = 0
    event_observation: int = 0
    event: int = 0
    delivery: int = 0
    act: int = 0

    @classmethod
    def parse(cls, cursor: str | None) -> "TimelinePosition":
        """Parse a cursor. One of an older version has fewer numbers; the missing tables begin at their first row."""
        return cls(*map(int, cursor.split("-"))) if cursor is not None else cls()

    def __str__(self) -> str:
        return "-".join(map(str, astuple(self)))


@dataclass(frozen=True, slots=True)
class _Entry:
    """An item, its rank among items of the same time, and the fields of the position that it moves."""

    item: TimelineItem
    rank: int
    moves: Mapping[str, Any]

    @property
    def order(self) -> tuple[datetime, int]:
        return self.item.at, self.rank


def get_timeline(database: Database, connection_id: str, query: TimelineQuery, views: Views) -> Timeline:
    """Return a page of a connection's timeline.

    Args:
        database: The database.
        connection_id: The connection.
        query: The page size and the cursor.
        views: Projects observations to mirror rows, with the code that wrote the mirror.

    Raises:
        NotFoundError: If neither the mirror nor the queue of reads has the connection.
    """
    position = TimelinePosition.parse(query.after)
    limit = query.limit + 1  # one row more than the page shows whether there is a next page
    with database.snapshot() as session:
        if not is_known(session, connection_id):
            raise not_found(connection_id)
        audit_entries = session.exec(select_audit_entries(connection_id, position).limit(limit)).all()
        webhooks = session.exec(select_timeline_webhooks(connection_id, position).limit(limit)).all()
        observations = session.exec(select_observations(connection_id, position).limit(limit)).all()
        events = session.exec(select_events(connection_id, position).limit(limit)).all()
        deliveries = session.exec(select_deliveries(connection_id, position).limit(limit)).all()
        projected = _project(session, connection_id, observations, views)
    streams = (
        map(_audit_entry, audit_entries),
        map(_webhook_entry, webhooks),
        map(_read_entry, observations, pairwise(projected)),
        map(_event_entry, events),
        map(_delivery_entry, deliveries),
    )
    items: list[TimelineItem] = []
    for entry in heapq.merge(*streams, key=lambda entry: entry.order):
        if len(items) == query.limit:
            return Timeline(connection_id=connection_id, timeline=items, next=str(position))
        items.append(entry.item)
        position = replace(position, **entry.moves)
    return Timeline(connection_id=connection_id, timeline=items, next=None)


def operations(database: Database, threads: ThreadPool, views: Views) -> tuple[Operation, ...]:
    """Return the API operation of timelines."""
    return (
        Operation(
            method="GET",
            path="/api/connections/{id}/timeline",
            operation_id="getTimeline",
            summary="List the history of a connection: webhooks, reads and changes, events, deliveries, actions.",
            access="read",
            query_model=TimelineQuery,
            responses=(ResponseSpec(description="A page of the timeline.", model=Timeline),),
            handler=threads.handler(
                lambda request, query: get_timeline(database, request.path_params["id"], query, views)
            ),
        ),
    )


def select_audit_entries(connection_id: str, position: TimelinePosition) -> SelectOfScalar[AuditRow]:
    """Return the query for the audit entries of the connection behind a position."""
    ids = col(AuditRow.id)
    return select(AuditRow).where(AuditRow.connection_id == connection_id, ids > position.act).order_by(ids)


def select_timeline_webhooks(connection_id: str, position: TimelinePosition) -> SelectOfScalar[WebhookRow]:
    """Return the query for the webhooks of the connection behind a position."""
    ids = col(WebhookRow.id)
    return select_webhooks().where(WebhookRow.connection_id == connection_id, ids > position.webhook).order_by(ids)


def select_observations(connection_id: str, position: TimelinePosition) -> SelectOfScalar[ObservationRow]:
    """Return the query for the observations of the connection behind a position."""
    ids = col(ObservationRow.id)
    mine = select(ObservationRow).where(ObservationRow.connection_id == connection_id, ids > position.observation)
    return mine.order_by(ids)


def select_previous_observations(connection_id: str, first: ObservationRow) -> SelectOfScalar[ObservationRow]:
    """Return the query for the two observations before one, newest first: the state of the connection before it.

    One is not enough: if Meld did not have the connection any more, the one before it has the last known state.
    """
    ids = col(ObservationRow.id)
    mine = select(ObservationRow).where(ObservationRow.connection_id == connection_id, ids < first.id)
    return mine.order_by(ids.desc()).limit(2)


def select_events(connection_id: str, position: TimelinePosition) -> SelectOfScalar[EventRow]:
    """Return the query for the events behind a position. An event that a repair appended later stands at its read."""
    keys: tuple[Mapped[Any], ...] = (col(EventRow.observation_id), col(EventRow.position))
    mine = select(EventRow).where(
        EventRow.connection_id == connection_id, tuple_(*keys) > (position.event_observation, position.event)
    )
    return mine.order_by(*keys)


def select_deliveries(connection_id: str, position: TimelinePosition) -> SelectOfScalar[DeliveryRow]:
    """Return the query for the deliveries of the connection's events behind a position."""
    ids = col(DeliveryRow.id)
    return select(DeliveryRow).where(DeliveryRow.connection_id == connection_id, ids > position.delivery).order_by(ids)


def _project(
    session: Session, connection_id: str, observations: Sequence[ObservationRow], views: Views
) -> Iterator[ConnectionRow | None]:
    """Return the mirror row before the first observation, and after each. It is lazy: a page may show few of them."""
    if not observations:
        return iter(())
    baseline = session.get(BaselineRow, connection_id)
    previous = list(session.exec(select_previous_observations(connection_id, observations[0])).all())[::-1]
    return islice(views(baseline, [*previous, *observations]), len(previous), None)


def _audit_entry(row: AuditRow) -> _Entry:
    return _Entry(AuditItem(at=row.at, act=AuditEntry.from_row(row)), 0, {"act": row.id})


def _webhook_entry(row: WebhookRow) -> _Entry:
    return _Entry(WebhookItem(at=row.received_at, webhook=Webhook.from_row(row)), 1, {"webhook": row.id})


def _read_entry(row: ObservationRow, views: tuple[ConnectionRow | None, ConnectionRow | None]) -> _Entry:
    before, after = views
    read = Read.model_validate(
        {
            **row.model_dump(include={"trigger", "webhook_event_ids", "replay_id", "began_at", "ended_at", "found"}),
            "observation_id": row.id,
            "changes": field_diff.diff_connections(before, after),
            "unshown_changes": field_diff.list_hidden_changes(before, after),
        }
    )
    return _Entry(ReadItem(at=row.ended_at, read=read), 2, {"observation": row.id})


def _event_entry(row: EventRow) -> _Entry:
    moves = {"event_observation": row.observation_id, "event": row.position}
    return _Entry(EventItem(at=row.time, event=Event.from_row(row)), 3, moves)


def _delivery_entry(row: DeliveryRow) -> _Entry:
    return _Entry(DeliveryItem(at=row.created_at, delivery=Delivery.from_row(row)), 4, {"delivery": row.id})
