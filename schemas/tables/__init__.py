"""Database tables: one class for each table, with the meaning of its rows.

These classes are rows and nothing else: no input is parsed into them (``table=True`` does not validate), and they are
never sent out. States are nullable timestamps, so that no status column can contradict them. There are no foreign keys,
because retention deletes old rows of one table while other tables keep their ids.
"""

from schemas.tables.admin import AuditRow, RejectionRow, ReplayRow
from schemas.tables.column_types import METADATA
from schemas.tables.coordination import CircuitBreakerRow, ReconcileRunRow, TaskLeaseRow
from schemas.tables.feed import EventRow, FeedCounterRow
from schemas.tables.inbox import ReadRequestRow, WebhookRow
from schemas.tables.mirror import ConnectionRow, ObservationRow
from schemas.tables.outbox import DeliveryQueueRow, DeliveryRow, SubscriptionRow
from schemas.tables.retention import BaselineRow, EventBaselineRow

__all__ = [
    "METADATA",
    "AuditRow",
    "BaselineRow",
    "CircuitBreakerRow",
    "ConnectionRow",
    "DeliveryQueueRow",
    "DeliveryRow",
    "EventBaselineRow",
    "EventRow",
    "FeedCounterRow",
    "ObservationRow",
    "ReadRequestRow",
    "ReconcileRunRow",
    "RejectionRow",
    "ReplayRow",
    "SubscriptionRow",
    "TaskLeaseRow",
    "WebhookRow",
]
