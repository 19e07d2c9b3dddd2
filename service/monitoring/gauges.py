"""Gauges: how things stand by the rows, beside what this process has counted, as Prometheus text."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from sqlalchemy import func
from sqlmodel import Session, col, select
from starlette.requests import Request
from starlette.responses import Response

from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from runtime.queues import circuit_breaker
from schemas.message_names import PRUNE
from schemas.tables import ReadRequestRow, ReconcileRunRow, TaskLeaseRow, WebhookRow
from service.feed import notifier
from service.http.operation import Operation, ResponseSpec
from service.http.responses import reply
from service.http.threadpool import ThreadPool
from service.ingest.webhook_state import in_state
from service.monitoring import read_backlog
from service.reconcile.drift import KINDS
from service.resources import duplicates
from service.scheduler import due_deliveries

FRESH = timedelta(seconds=5)

NAMES: dict[str, str] = {
    "meldwatch_database_up": "Whether the database answered; without it there is none of the others.",
    "meldwatch_jobs_due": "Reads of Meld that are due and that nobody is at.",
    "meldwatch_oldest_due_job_seconds": "How long the oldest of them has been due.",
    "meldwatch_jobs_dead": "Connections whose reads failed too often.",
    "meldwatch_webhooks_pending": "Stored webhooks that wait for a read.",
    "meldwatch_feed_position": "The position of the newest event.",
    "meldwatch_deliveries_pending": "Events that are owed to subscriptions.",
    "meldwatch_oldest_due_delivery_seconds": "How long the oldest push has been due that nobody is at.",
    "meldwatch_deliveries_dead": "Events whose pushes failed for three days.",
    "meldwatch_subscriptions_failing": "Subscriptions that have taken no push for a day.",
    "meldwatch_groups_not_converged": "Duplicate groups whose primary, as members name it, says otherwise of itself.",
    "meldwatch_reads_paused": "Whether all reads of Meld are paused.",
    "meldwatch_reconciled_seconds": "How long ago the last finished reconcile began.",
    "meldwatch_drift_unseen": "Connections of Meld's list that the mirror lacked, by the last finished reconcile.",
    "meldwatch_drift_changed": "Connections that the mirror had otherwise than Meld's list.",
    "meldwatch_drift_missing": "Living connections of the mirror that Meld's list lacked.",
    "meldwatch_pruned_seconds": "How long ago the last prune ended; before the first, since when it is waited for.",
}
"""Every gauge, and what it says."""


def measure(database: Database) -> dict[str, float]:
    """Return what each gauge shows."""
    try:
        with database.read() as session:
            return {"meldwatch_database_up": 1, **_measure(database, session)}
    except OutOfReachError:
        return {"meldwatch_database_up": 0}


def _measure(database: Database, session: Session) -> dict[str, float]:
    due = read_backlog.measure(database, session)
    dead = select(func.count()).select_from(ReadRequestRow).where(col(ReadRequestRow.failed_at).is_not(None))
    pending = select(func.count()).select_from(WebhookRow).where(in_state("pending"))
    return {
        "meldwatch_jobs_due": due.jobs,
        "meldwatch_oldest_due_job_seconds": due.oldest_seconds,
        "meldwatch_jobs_dead": session.exec(dead).one(),
        "meldwatch_webhooks_pending": session.exec(pending).one(),
        "meldwatch_feed_position": notifier.position(session),
        **_outbox(database, session),
        "meldwatch_groups_not_converged": duplicates.count_not_converged(session),
        "meldwatch_reads_paused": int(circuit_breaker.current(session) is not None),
        **_drift(database, session),
        **_pruned(database, session),
    }


def _outbox(database: Database, session: Session) -> dict[str, float]:
    measured = due_deliveries.measure(database, session)
    return {
        "meldwatch_deliveries_pending": measured.pending,
        "meldwatch_oldest_due_delivery_seconds": measured.oldest_seconds,
        "meldwatch_deliveries_dead": measured.dead,
        "meldwatch_subscriptions_failing": measured.failing,
    }


def _drift(database: Database, session: Session) -> dict[str, float]:
    finished = (
        select(ReconcileRunRow, database.now())
        .where(col(ReconcileRunRow.finished_at).is_not(None))
        .order_by(col(ReconcileRunRow.id).desc())
    )
    row = session.exec(finished.limit(1)).first()
    if row is None:
        return {}
    sweep, now = row
    drift = {f"meldwatch_drift_{kind}": float(getattr(sweep, kind)) for kind in KINDS}
    return {"meldwatch_reconciled_seconds": (now - sweep.started_at).total_seconds(), **drift}


def _pruned(database: Database, session: Session) -> dict[str, float]:
    row = session.exec(select(TaskLeaseRow.ran_at, database.now()).where(TaskLeaseRow.name == PRUNE)).one_or_none()
    if row is None or row[0] is None:
        return {}
    ran_at, now = row
    return {"meldwatch_pruned_seconds": (now - ran_at).total_seconds()}


class Gauges(Collector):
    """Shows the gauges, counting the rows once in a while however often it is asked.

    Args:
        measure: Returns what each gauge shows.
        clock: The present.
    """

    def __init__(self, measure: Callable[[], dict[str, float]], clock: Clock) -> None:
        self._measure = measure
        self._clock = clock
        self._lock = threading.Lock()
        self._measured: tuple[datetime, dict[str, float]] | None = None

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the gauges without counting anything."""
        return (GaugeMetricFamily(name, text) for name, text in NAMES.items())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Show the gauges that are known."""
        values = self._current()
        return (GaugeMetricFamily(name, text, value=values[name]) for name, text in NAMES.items() if name in values)

    def _current(self) -> dict[str, float]:
        with self._lock:
            now = self._clock()
            if self._measured is None or not timedelta(0) <= now - self._measured[0] < FRESH:
                self._measured = now, self._measure()
            return self._measured[1]


def operations(*, database: Database, clock: Clock, threads: ThreadPool, metrics: Metrics) -> tuple[Operation, ...]:
    """Return what Prometheus asks."""
    rows = CollectorRegistry()
    rows.register(Gauges(lambda: measure(database), clock))

    async def handle(_request: Request, _query: object) -> Response:
        text = await threads.run(lambda: generate_latest(metrics.registry) + generate_latest(rows))
        return reply(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return (
        Operation(
            method="GET",
            path="/metrics",
            name="getMetrics",
            summary="What this process has counted, and how things stand by the rows, for Prometheus.",
            need="nearness",
            answers=(ResponseSpec(description="Prometheus text.", media_type="text/plain"),),
            handle=handle,
        ),
    )
