"""Timeline: what is known to have happened to a connection, from several tables, in the order of time.

Each table is read in its own order, by an index, from where the page before ended in it. So pages are bounded, and fit
together, whatever the clocks of several machines said.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from itertools import islice, pairwise
from typing import Any

from sqlalchemy import tuple_
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from runtime import connection_diff
from runtime.database import Database
from schemas import tables
from schemas.api_queries import TimelineQuery
from schemas.api_resources import Act, Webhook
from schemas.events import Event
from schemas.subscriptions import Delivery
from schemas.timeline import ActItem, DeliveryItem, EventItem, Item, Read, ReadItem, Timeline, WebhookItem
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool
from service.resources.connections import is_known, unknown
from service.resources.webhooks import stored

Views = Callable[[tables.BaselineRow | None, Iterable[tables.ObservationRow]], Iterator[tables.ConnectionRow | None]]
"""Yields the mirror as it was before the first of the observations that follow a baseline, and after each."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far the timeline was read in each table: the last row of each, of an event with its observation."""

    webhook: int = 0
    observation: int = 0
    event_observation: int = 0
    event: int = 0
    delivery: int = 0
    act: int = 0

    @classmethod
    def parse(cls, cursor: str | None) -> "Place":
        """Return the place that a cursor tells; one that knows fewer tables begins at the others' beginning."""
        return cls(*map(int, cursor.split("-"))) if cursor is not None else cls()

    def __str__(self) -> str:
        return "-".join(map(str, astuple(self)))


class Timelines:
    """The operation on timelines.

    Args:
        database: The database.
        threads: Where the work is done.
        views: Folds observations, as the mirror was made of them.
    """

    def __init__(self, *, database: Database, threads: ThreadPool, views: Views) -> None:
        self._database = database
        self._threads = threads
        self._views = views

    def find(self, connection_id: str, query: TimelineQuery) -> Timeline:
        """Return a page of a connection's timeline.

        Raises:
            UnknownError: Where neither the mirror nor any job has it.
        """
        place = Place.parse(query.after)
        most = query.limit + 1  # one more than the page tells whether there is a next one
        with self._database.snapshot() as session:
            if not is_known(session, connection_id):
                raise unknown(connection_id)
            webhooks = session.exec(webhooks_of(connection_id, place).limit(most)).all()
            observations = session.exec(observations_of(connection_id, place).limit(most)).all()
            events = session.exec(events_of(connection_id, place).limit(most)).all()
            deliveries = session.exec(deliveries_of(connection_id, place).limit(most)).all()
            acts = session.exec(acts_of(connection_id, place).limit(most)).all()
            reads = self._reads(session, connection_id, observations)
        walks = (_acts(acts), _webhooks(webhooks), reads, _events(events), _deliveries(deliveries))
        items: list[Item] = []
        for entry in heapq.merge(*walks, key=lambda entry: entry.order):
            if len(items) == query.limit:
                return Timeline(connection_id=connection_id, timeline=items, next=str(place))
            items.append(entry.item)
            place = replace(place, **entry.ends)
        return Timeline(connection_id=connection_id, timeline=items, next=None)

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked of the API."""
        return (
            Operation(
                method="GET",
                path="/api/connections/{id}/timeline",
                name="getTimeline",
                summary="What happened to it: webhooks, reads with what each found, events, deliveries, acts.",
                need="read",
                query=TimelineQuery,
                answers=(ResponseSpec(description="A page of the timeline.", shape=Timeline),),
                handle=self._threads.handler(lambda request, query: self.find(request.path_params["id"], query)),
            ),
        )

    def _reads(
        self, session: Session, connection_id: str, observations: Sequence[tables.ObservationRow]
    ) -> Iterator["_Entry"]:
        if not observations:
            return iter(())
        baseline = session.get(tables.BaselineRow, connection_id)
        before = list(session.exec(before_of(connection_id, observations[0])).all())[::-1]
        # Folded as they are taken: of what was read, a page shows the fewest.
        views = islice(self._views(baseline, [*before, *observations]), len(before), None)
        return map(_read, observations, pairwise(views))


@dataclass(frozen=True, slots=True)
class _Entry:
    """An item, where it stands among those of one time, and how far its table is read with it."""

    item: Item
    rank: int
    ends: Mapping[str, Any]

    @property
    def order(self) -> tuple[datetime, int]:
        return self.item.at, self.rank


def webhooks_of(connection_id: str, place: Place) -> SelectOfScalar[tables.WebhookRow]:
    """Return the query for what follows of the connection's webhooks."""
    ids = col(tables.WebhookRow.id)
    mine = stored().where(tables.WebhookRow.connection_id == connection_id, ids > place.webhook)
    return mine.order_by(ids)


def observations_of(connection_id: str, place: Place) -> SelectOfScalar[tables.ObservationRow]:
    """Return the query for what follows of its observations."""
    ids = col(tables.ObservationRow.id)
    mine = select(tables.ObservationRow).where(
        tables.ObservationRow.connection_id == connection_id, ids > place.observation
    )
    return mine.order_by(ids)


def before_of(connection_id: str, first: tables.ObservationRow) -> SelectOfScalar[tables.ObservationRow]:
    """Return the query for the observations, newest first, that tell how the connection was before one of them.

    Two: one tells it all, but where Meld had the connection no more the one before tells what was last known.
    """
    ids = col(tables.ObservationRow.id)
    mine = select(tables.ObservationRow).where(tables.ObservationRow.connection_id == connection_id, ids < first.id)
    return mine.order_by(ids.desc()).limit(2)


def events_of(connection_id: str, place: Place) -> SelectOfScalar[tables.EventRow]:
    """Return the query for what follows of its events: one that was appended later stands where its read is."""
    keys = (col(tables.EventRow.observation_id), col(tables.EventRow.position))
    mine = select(tables.EventRow).where(
        tables.EventRow.connection_id == connection_id, tuple_(*keys) > (place.event_observation, place.event)
    )
    return mine.order_by(*keys)


def deliveries_of(connection_id: str, place: Place) -> SelectOfScalar[tables.DeliveryRow]:
    """Return the query for what follows of its events' deliveries."""
    ids = col(tables.DeliveryRow.id)
    mine = select(tables.DeliveryRow).where(tables.DeliveryRow.connection_id == connection_id, ids > place.delivery)
    return mine.order_by(ids)


def acts_of(connection_id: str, place: Place) -> SelectOfScalar[tables.AuditRow]:
    """Return the query for what follows of what operators did to it."""
    ids = col(tables.AuditRow.id)
    mine = select(tables.AuditRow).where(tables.AuditRow.connection_id == connection_id, ids > place.act)
    return mine.order_by(ids)


def _acts(found: Iterable[tables.AuditRow]) -> Iterator[_Entry]:
    for row in found:
        yield _Entry(ActItem(at=row.at, act=Act.from_row(row)), 0, {"act": row.id})


def _webhooks(found: Iterable[tables.WebhookRow]) -> Iterator[_Entry]:
    for row in found:
        yield _Entry(WebhookItem(at=row.received_at, webhook=Webhook.from_row(row)), 1, {"webhook": row.id})


def _read(row: tables.ObservationRow, views: tuple[tables.ConnectionRow | None, tables.ConnectionRow | None]) -> _Entry:
    before, after = views
    read = Read.model_validate(
        {
            **row.model_dump(include={"trigger", "webhook_event_ids", "replay_id", "began_at", "ended_at", "found"}),
            "observation_id": row.id,
            "changes": connection_diff.changes(before, after),
            "unshown_changes": connection_diff.unshown(before, after),
        }
    )
    return _Entry(ReadItem(at=row.ended_at, read=read), 2, {"observation": row.id})


def _events(found: Iterable[tables.EventRow]) -> Iterator[_Entry]:
    for row in found:
        ends = {"event_observation": row.observation_id, "event": row.position}
        yield _Entry(EventItem(at=row.time, event=Event.from_row(row)), 3, ends)


def _deliveries(found: Iterable[tables.DeliveryRow]) -> Iterator[_Entry]:
    for row in found:
        yield _Entry(DeliveryItem(at=row.created_at, delivery=Delivery.from_row(row)), 4, {"delivery": row.id})
