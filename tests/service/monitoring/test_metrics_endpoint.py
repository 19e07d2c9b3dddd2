import re
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from starlette.testclient import TestClient

from runtime.clock import utcnow
from runtime.database import Database
from runtime.queues import circuit_breaker
from schemas.tables import DeliveryQueueRow, DeliveryRow, ReconcileRunRow, TaskLeaseRow
from service.feed.notifier import FeedNotifier
from service.monitoring.database_gauges import GAUGE_DESCRIPTIONS
from tests.service.conftest import READ, Api, AppFactory
from tests.support import row_factory
from tests.support.scripted_consumer import subscribe


def gauges(text: str) -> dict[str, float]:
    """Return the values of the database gauges."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: sample.value for sample in samples if sample.name in GAUGE_DESCRIPTIONS}


def test_gauges_are_measured_from_the_database(api: Api) -> None:
    """Whichever process wrote the rows."""
    past = utcnow() - timedelta(seconds=60)
    row_factory.store(
        api.database,
        row_factory.read_request("c1", requested=1, due_at=past),
        row_factory.read_request("c2", requested=1, failed_at=past),
        row_factory.webhook(),
        row_factory.webhook(),
        row_factory.webhook(processed_at=past),
        row_factory.webhook(failed_at=past),
        row_factory.event(1),
        row_factory.event(2),
        row_factory.connection("behind", primary_duplicate_id="former"),
        row_factory.connection("former", primary_duplicate_id="leader"),
        row_factory.connection("leader", primary_duplicate_id="leader"),
        row_factory.connection("gone", primary_duplicate_id="nobody", status="DELETED"),
        DeliveryQueueRow(subscription_id="s1", connection_id="c1", due_at=past),
        *(delivery(position) for position in (1, 2)),
        delivery(3, dead_at=past),
        delivery(4, delivered_at=past),
    )
    subscribe(api.database, failing_since=past - timedelta(days=1))
    with api.database.write() as session:
        circuit_breaker.open_circuit(api.database, session, reason="throttled", detail="", seconds=30)

    values = gauges(api.reader.get("/metrics").text)
    job_seconds = values.pop("meldwatch_oldest_due_job_seconds")
    push_seconds = values.pop("meldwatch_oldest_due_delivery_seconds")

    expected = {
        "meldwatch_database_up": 1,
        "meldwatch_jobs_due": 1,
        "meldwatch_jobs_dead": 1,
        "meldwatch_webhooks_pending": 2,
        "meldwatch_feed_position": 2,
        "meldwatch_deliveries_pending": 2,
        "meldwatch_deliveries_dead": 1,
        "meldwatch_subscriptions_failing": 1,
        "meldwatch_groups_not_converged": 1,
        "meldwatch_reads_paused": 1,
    }
    assert expected == values
    assert 60 <= job_seconds < 70
    assert 60 <= push_seconds < 70


def delivery(position: int, **steps: Any) -> DeliveryRow:
    """Return a delivery to the subscription."""
    usual = {
        "type": "connection.status_changed",
        "created_at": row_factory.TIME,
        "outcomes": [],
        "event_id": str(position),
    }
    return DeliveryRow(subscription_id="s1", connection_id="c1", position=position, **{**usual, **steps})


def test_gauges_exist_from_the_beginning(api: Api) -> None:
    """An alarm needs a 0 to compare with; only those of reconcile and prune are missing before the first run."""
    values = gauges(api.reader.get("/metrics").text)

    known = [name for name in GAUGE_DESCRIPTIONS if not re.search("drift|reconciled|pruned", name)]
    assert {**dict.fromkeys(known, 0), "meldwatch_database_up": 1} == values


def test_the_drift_of_the_last_finished_reconcile_is_shown(api: Api) -> None:
    """By kind; a reconcile that still runs does not hide it."""
    started = utcnow() - timedelta(minutes=5)
    finished = ReconcileRunRow(started_at=started, finished_at=started, unseen=3, changed=2, missing=1, examples={})
    row_factory.store(api.database, finished, ReconcileRunRow(started_at=utcnow(), unseen=9, examples={}))

    values = gauges(api.reader.get("/metrics").text)

    drift = {kind: values[f"meldwatch_drift_{kind}"] for kind in ("unseen", "changed", "missing")}
    assert drift == {"unseen": 3, "changed": 2, "missing": 1}
    assert values["meldwatch_reconciled_seconds"] >= 300


def test_the_age_of_the_last_prune_is_shown(api: Api) -> None:
    """From its task lease; without a finished run the gauge is missing."""
    ended = utcnow() - timedelta(minutes=5)
    row_factory.store(api.database, TaskLeaseRow(name="prune", holder="x", until=ended, ran_at=ended))

    assert gauges(api.reader.get("/metrics").text)["meldwatch_pruned_seconds"] >= 300
    with api.database.write() as session:
        session.exec(update(TaskLeaseRow).values(ran_at=None))
    api.clock.move(10)
    assert "meldwatch_pruned_seconds" not in gauges(api.reader.get("/metrics").text)


def test_the_counters_of_the_process_are_there_too(api: Api) -> None:
    """One response has both, in Prometheus' media type."""
    api.metrics.webhooks.labels("stored").inc(3)

    response = api.reader.get("/metrics")

    assert 'meldwatch_webhooks_total{result="stored"} 3.0' in response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_a_measurement_is_cached(api: Api) -> None:
    """For five seconds each scrape gets the same values."""
    values = []
    for number, seconds in enumerate((0, 4.9, 0.1), start=1):
        row_factory.store(api.database, row_factory.event(number))
        api.clock.move(seconds)
        values.append(gauges(api.reader.get("/metrics").text)["meldwatch_feed_position"])

    assert values == [1, 1, 3]


def test_an_unreachable_database_is_a_gauge(unreachable_database: Database) -> None:
    """The counters of the process are there all the same."""
    client = TestClient(AppFactory(database=unreachable_database).app(FeedNotifier(database=unreachable_database)))

    response = client.get("/metrics", headers={"Authorization": f"Bearer {READ}"})

    assert (response.status_code, gauges(response.text)) == (200, {"meldwatch_database_up": 0})
    assert "meldwatch_worker_notifications_failed_total 0.0" in response.text


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("::1", 200), ("203.0.113.9", 401)])
def test_loopback_needs_no_token(api: Api, host: str, status: int) -> None:
    """Requests from this machine need none, others do."""
    assert status == TestClient(api.app, client=(host, 1)).get("/metrics").status_code
