"""Retention rules: for each table the conditions under which a row may be removed, or its body emptied.

A row that a read or a delivery still needs never meets them, whatever its age.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, not_, or_
from sqlmodel import col

from runtime.database import Database
from runtime.queues import reads
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
from workers.retention.cutoffs import Cutoffs
from workers.retention.events import count_removable_events, remove_old_events
from workers.retention.observations import count_removable_observations, remove_old_observations
from workers.retention.scan import ConnectionScan, RetentionRule, RowScan, TableScan

KINDS = ("webhooks", "bodies", "failures", "observations", "events", "deliveries", "rejections")
"""The kinds of removed rows that a run counts, named as the setting ``retain_..._days`` of each."""


def table_scans(database: Database, cutoffs: Cutoffs) -> tuple[TableScan, ...]:
    """Return the scan of each table, in the order of removal: deliveries first, since events wait for them."""
    observations = ConnectionScan(
        "observations",
        key=col(ObservationRow.id),
        connection_id=col(ObservationRow.connection_id),
        arrived_at=col(ObservationRow.ended_at),
        before=cutoffs.observations,
        count=lambda session, id_: count_removable_observations(session, id_, cutoffs.observations),
        remove=lambda session, id_: remove_old_observations(database, session, id_, cutoffs.observations),
    )
    events = ConnectionScan(
        "events",
        key=col(EventRow.position),
        connection_id=col(EventRow.connection_id),
        arrived_at=col(EventRow.time),
        before=cutoffs.events,
        count=lambda session, id_: count_removable_events(session, id_, cutoffs),
        remove=lambda session, id_: remove_old_events(database, session, id_, cutoffs),
    )
    return (_deliveries(cutoffs), events, observations, _webhooks(database, cutoffs), _rejections(cutoffs))


def _webhooks(database: Database, cutoffs: Cutoffs) -> RowScan:
    is_done = or_(col(WebhookRow.processed_at).is_not(None), col(WebhookRow.ignored_at).is_not(None))
    is_failed = and_(not_(is_done), col(WebhookRow.failed_at).is_not(None))
    emptied: dict[str, Any] = {"body": b"", "headers": {}, "encrypted_with": None, "emptied_at": database.now()}
    rules = {
        "webhooks": RetentionRule(
            and_(is_done, _last_delivered_before(cutoffs.webhooks), not_(_is_deletion_evidence()))
        ),
        "failures": RetentionRule(
            and_(
                is_failed,
                col(WebhookRow.failed_at) < cutoffs.failures,
                _last_delivered_before(cutoffs.event_ids),
                not_(_is_read_pending()),
                not_(_is_deletion_evidence()),
            )
        ),
        "bodies": RetentionRule(
            and_(is_done, col(WebhookRow.received_at) < cutoffs.bodies, col(WebhookRow.emptied_at).is_(None)), emptied
        ),
    }
    return RowScan(WebhookRow, WebhookRow.received_at, rules, cutoff=max(cutoffs.event_ids, cutoffs.bodies))


def _last_delivered_before(time: datetime) -> ColumnElement[bool]:
    return and_(col(WebhookRow.received_at) < time, col(WebhookRow.delivered_at) < time)


def _is_deletion_evidence() -> ColumnElement[bool]:
    """Whether a webhook is the only evidence of its connection's deletion; without it a read's 404 is not believed."""
    seen = exists().where(col(ConnectionRow.id) == col(WebhookRow.connection_id), col(ConnectionRow.status) == DELETED)
    return and_(
        col(WebhookRow.hint_status).is_not_distinct_from(DELETED),
        col(WebhookRow.connection_id).is_not(None),
        not_(seen),
    )


def _is_read_pending() -> ColumnElement[bool]:
    """Whether a new read of a failed webhook's connection is pending, which may still process the webhook."""
    return exists().where(
        col(ReadRequestRow.connection_id) == col(WebhookRow.connection_id),
        reads.is_pending(),
        col(ReadRequestRow.failed_at).is_(None),
    )


def _deliveries(cutoffs: Cutoffs) -> RowScan:
    is_given_up = and_(col(DeliveryRow.delivered_at).is_(None), col(DeliveryRow.dead_at) < cutoffs.failures)
    rules = {
        "deliveries": RetentionRule(col(DeliveryRow.delivered_at) < cutoffs.deliveries),
        "failures": RetentionRule(is_given_up),
    }
    return RowScan(DeliveryRow, DeliveryRow.created_at, rules, cutoff=max(cutoffs.deliveries, cutoffs.failures))


def _rejections(cutoffs: Cutoffs) -> RowScan:
    rules = {"rejections": RetentionRule(col(RejectionRow.received_at) < cutoffs.rejections)}
    return RowScan(RejectionRow, RejectionRow.first_at, rules, cutoff=cutoffs.rejections)
