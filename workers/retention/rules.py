"""Fates: of each table the rows that retention may take. What is owed is not among them, whatever its age."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, not_, or_
from sqlmodel import col

from runtime.database import Database
from schemas.meld.webhook import DELETED
from schemas.tables import (
    ConnectionRow,
    DeliveryRow,
    EventRow,
    ObservationRow,
    ReadRequestRow,
    RejectionRow,
    WebhookRow,
)
from workers.retention.cutoffs import Bounds
from workers.retention.events import drop, droppable
from workers.retention.observations import forget, forgettable
from workers.retention.scan import Fate, Histories, Rows, Sieve

KINDS = ("webhooks", "bodies", "failures", "observations", "events", "deliveries", "rejections")
"""What is counted, each by the setting that says how long it is kept."""


def sieves_of(database: Database, bounds: Bounds) -> tuple[Sieve, ...]:
    """Return what finds and removes the rows of each table; deliveries before the events that they owe."""
    observations = Histories(
        "observations",
        key=col(ObservationRow.id),
        connection_id=col(ObservationRow.connection_id),
        came_at=col(ObservationRow.ended_at),
        before=bounds.observations,
        count=lambda session, id_: forgettable(session, id_, bounds.observations),
        remove=lambda session, id_: forget(database, session, id_, bounds.observations),
    )
    events = Histories(
        "events",
        key=col(EventRow.position),
        connection_id=col(EventRow.connection_id),
        came_at=col(EventRow.time),
        before=bounds.events,
        count=lambda session, id_: droppable(session, id_, bounds),
        remove=lambda session, id_: drop(database, session, id_, bounds),
    )
    return (_deliveries(bounds), events, observations, _webhooks(database, bounds), _rejections(bounds))


def _webhooks(database: Database, bounds: Bounds) -> Rows:
    is_settled = or_(col(WebhookRow.processed_at).is_not(None), col(WebhookRow.ignored_at).is_not(None))
    is_failed = and_(not_(is_settled), col(WebhookRow.failed_at).is_not(None))
    empty: dict[str, Any] = {"body": b"", "headers": {}, "encrypted_with": None, "emptied_at": database.now()}
    fates = {
        "webhooks": Fate(and_(is_settled, _last_came_before(bounds.webhooks), not_(_is_evidence()))),
        "failures": Fate(
            and_(
                is_failed,
                col(WebhookRow.failed_at) < bounds.failures,
                _last_came_before(bounds.ids),
                not_(_is_tried_again()),
                not_(_is_evidence()),
            )
        ),
        "bodies": Fate(
            and_(is_settled, col(WebhookRow.received_at) < bounds.bodies, col(WebhookRow.emptied_at).is_(None)), empty
        ),
    }
    return Rows(WebhookRow, WebhookRow.received_at, fates, newest=max(bounds.ids, bounds.bodies))


def _last_came_before(time: datetime) -> ColumnElement[bool]:
    return and_(col(WebhookRow.received_at) < time, col(WebhookRow.delivered_at) < time)


def _is_evidence() -> ColumnElement[bool]:
    """Whether a webhook says that its connection was deleted, and nothing else does: a 404 is believed for it."""
    seen = exists().where(col(ConnectionRow.id) == col(WebhookRow.connection_id), col(ConnectionRow.status) == DELETED)
    return and_(
        col(WebhookRow.hint_status).is_not_distinct_from(DELETED),
        col(WebhookRow.connection_id).is_not(None),
        not_(seen),
    )


def _is_tried_again() -> ColumnElement[bool]:
    """Whether the read that a failed webhook is owed is owed again."""
    return exists().where(
        col(ReadRequestRow.connection_id) == col(WebhookRow.connection_id),
        col(ReadRequestRow.requested) > col(ReadRequestRow.completed),
        col(ReadRequestRow.failed_at).is_(None),
    )


def _deliveries(bounds: Bounds) -> Rows:
    is_given_up = and_(col(DeliveryRow.delivered_at).is_(None), col(DeliveryRow.dead_at) < bounds.failures)
    fates = {
        "deliveries": Fate(col(DeliveryRow.delivered_at) < bounds.deliveries),
        "failures": Fate(is_given_up),
    }
    return Rows(DeliveryRow, DeliveryRow.created_at, fates, newest=max(bounds.deliveries, bounds.failures))


def _rejections(bounds: Bounds) -> Rows:
    fates = {"rejections": Fate(col(RejectionRow.received_at) < bounds.rejections)}
    return Rows(RejectionRow, RejectionRow.first_at, fates, newest=bounds.rejections)
