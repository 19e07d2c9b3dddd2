"""Database tables: one class for each table, with the meaning of its rows.

These classes are rows and nothing else: no input is parsed into them (``table=True`` does not validate), and they are
never sent out. States are nullable timestamps, so that no status column can contradict them. There are no foreign keys,
because retention deletes old rows of one table while other tables keep their ids.
"""

from schemas.tables.audit import AuditRow
from schemas.tables.baselines import BaselineRow, EventBaselineRow
from schemas.tables.circuit_breaker import CircuitBreakerRow
from schemas.tables.column_types import METADATA
from schemas.tables.connections import ConnectionRow
from schemas.tables.deliveries import DeliveryQueueRow, DeliveryRow
from schemas.tables.feed import EventRow, FeedCounterRow
from schemas.tables.observations import ObservationRow
from schemas.tables.read_requests import ReadRequestRow
from schemas.tables.reconcile_runs import ReconcileRunRow
from schemas.tables.rejections import RejectionRow
from schemas.tables.replays import ReplayRow
from schemas.tables.subscriptions import SubscriptionRow
from schemas.tables.task_leases import TaskLeaseRow
from schemas.tables.webhooks import WebhookRow

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
