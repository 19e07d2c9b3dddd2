"""Prometheus gauges that are measured from the database: backlogs, dead jobs, drift, ages of periodic tasks."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func
from sqlmodel import Session, col, select

from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import circuit_breaker
from schemas.message_names import PRUNE_LEASE
from schemas.tables import ReadRequestRow, ReconcileRunRow, TaskLeaseRow, WebhookRow
from service.feed import notifier
from service.ingest.webhook_state import in_state
from service.monitoring import delivery_backlog, read_backlog
from service.reconcile.drift import KINDS
from service.resources import duplicates

GAUGE_MAX_AGE = timedelta(seconds=5)
"""How long a measurement is served again, however often Prometheus scrapes."""

GAUGE_DESCRIPTIONS: dict[str, str] = {
    "meldwatch_database_up": "1 if the database answers; if not, all other gauges are missing.",
    "meldwatch_jobs_due": "Reads of Meld that are due and not leased by a worker.",
    "meldwatch_oldest_due_job_seconds": "How long the oldest of them has been due.",
    "meldwatch_jobs_dead": "Connections whose reads failed too often (dead jobs).",
    "meldwatch_webhooks_pending": "Stored webhooks that wait for a read.",
    "meldwatch_feed_position": "Position of the newest event.",
    "meldwatch_deliveries_pending": "Deliveries in the outbox that are neither acknowledged nor dead.",
    "meldwatch_oldest_due_delivery_seconds": "How long the oldest delivery has been due without a lease.",
    "meldwatch_deliveries_dead": "Deliveries that failed for three days (dead letters).",
    "meldwatch_subscriptions_failing": "Subscriptions that have acknowledged no push for a day.",
    "meldwatch_groups_not_converged": "Duplicate groups whose members disagree about their primary.",
    "meldwatch_reads_paused": "1 while the circuit breaker for reads of Meld is open.",
    "meldwatch_reconciled_seconds": "Seconds since the start of the last finished reconcile.",
    "meldwatch_drift_unseen": "Connections of Meld's list that the mirror lacked, in the last finished reconcile.",
    "meldwatch_drift_changed": "Connections that differed between Meld's list and the mirror.",
    "meldwatch_drift_missing": "Connections of the mirror, neither deleted nor expired, that Meld's list lacked.",
    "meldwatch_pruned_seconds": "Seconds since the end of the last prune; before the first, since it became pending.",
}
"""The help text of each gauge."""


def measure_gauges(database: Database) -> dict[str, float]:
    """Return the value of each gauge that is known."""
    try:
        with database.read() as session:
            return {"meldwatch_database_up": 1, **_measure(database, session)}
    except OutOfReachError:
        return {"meldwatch_database_up": 0}


def _measure(database: Database, session: Session) -> dict[str, float]:
    backlog = read_backlog.measure(database, session)
    dead = select(func.count()).select_from(ReadRequestRow).where(col(ReadRequestRow.failed_at).is_not(None))
    pending = select(func.count()).select_from(WebhookRow).where(in_state("pending"))
    return {
        "meldwatch_jobs_due": backlog.due,
        "meldwatch_oldest_due_job_seconds": backlog.oldest_seconds,
        "meldwatch_jobs_dead": session.exec(dead).one(),
        "meldwatch_webhooks_pending": session.exec(pending).one(),
        "meldwatch_feed_position": notifier.last_position(session),
        **_outbox_gauges(database, session),
        "meldwatch_groups_not_converged": duplicates.count_disagreeing_groups(session),
        "meldwatch_reads_paused": int(circuit_breaker.get_open_circuit(session) is not None),
        **_reconcile_gauges(database, session),
        **_prune_gauges(database, session),
    }


def _outbox_gauges(database: Database, session: Session) -> dict[str, float]:
    backlog = delivery_backlog.measure(database, session)
    return {
        "meldwatch_deliveries_pending": backlog.pending,
        "meldwatch_oldest_due_delivery_seconds": backlog.oldest_seconds,
        "meldwatch_deliveries_dead": backlog.dead,
        "meldwatch_subscriptions_failing": backlog.failing,
    }


def _reconcile_gauges(database: Database, session: Session) -> dict[str, float]:
    finished = (
        select(ReconcileRunRow, database.now())
        .where(col(ReconcileRunRow.finished_at).is_not(None))
        .order_by(col(ReconcileRunRow.id).desc())
    )
    row = session.exec(finished.limit(1)).first()
    if row is None:
        return {}
    run, now = row
    drift = {f"meldwatch_drift_{kind}": float(getattr(run, kind)) for kind in KINDS}
    return {"meldwatch_reconciled_seconds": (now - run.started_at).total_seconds(), **drift}


def _prune_gauges(database: Database, session: Session) -> dict[str, float]:
    row = session.exec(
        select(TaskLeaseRow.ran_at, database.now()).where(TaskLeaseRow.name == PRUNE_LEASE)
    ).one_or_none()
    if row is None or row[0] is None:
        return {}
    ran_at, now = row
    return {"meldwatch_pruned_seconds": (now - ran_at).total_seconds()}


class DatabaseGaugeCollector(Collector):
    """Prometheus collector of the gauges, which caches a measurement for ``GAUGE_MAX_AGE``.

    Args:
        measure: Returns the value of each gauge.
        clock: Returns the present time.
    """

    def __init__(self, measure: Callable[[], dict[str, float]], clock: Clock) -> None:
        self._measure = measure
        self._clock = clock
        self._lock = threading.Lock()
        self._cached: tuple[datetime, dict[str, float]] | None = None

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges without values, and without a database query."""
        return (GaugeMetricFamily(name, text) for name, text in GAUGE_DESCRIPTIONS.items())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges whose value is known."""
        values = self._values()
        return (
            GaugeMetricFamily(name, text, value=values[name])
            for name, text in GAUGE_DESCRIPTIONS.items()
            if name in values
        )

    def _values(self) -> dict[str, float]:
        with self._lock:
            now = self._clock()
            if self._cached is None or not timedelta(0) <= now - self._cached[0] < GAUGE_MAX_AGE:
                self._cached = now, self._measure()
            return self._cached[1]
