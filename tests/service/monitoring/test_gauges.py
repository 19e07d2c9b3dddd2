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
from service.monitoring.gauges import NAMES
from tests.service.conftest import READ, Api, Parts
from tests.support import row_factory
from tests.support.scripted_consumer import subscribe


def shown(text: str) -> dict[str, float]:
    """Return what each gauge of the rows shows."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: sample.value for sample in samples if sample.name in NAMES}


def test_gauges_tell_how_things_stand(api: Api) -> None:
    """By the rows, whichever process wrote them."""
    past = utcnow() - timedelta(seconds=60)
    row_factory.store(
        api.database,
        row_factory.job("c1", requested=1, due_at=past),
        row_factory.job("c2", requested=1, failed_at=past),
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
        *(owed(position) for position in (1, 2)),
        owed(3, dead_at=past),
        owed(4, delivered_at=past),
    )
    subscribe(api.database, failing_since=past - timedelta(days=1))
    with api.database.write() as session:
        circuit_breaker.close(api.database, session, reason="throttled", detail="", seconds=30)

    values = shown(api.reader.get("/metrics").text)
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


def owed(position: int, **steps: Any) -> DeliveryRow:
    """Return a delivery to a subscription."""
    usual = {
        "type": "connection.status_changed",
        "created_at": row_factory.TIME,
        "outcomes": [],
        "event_id": str(position),
    }
    return DeliveryRow(subscription_id="s1", connection_id="c1", position=position, **{**usual, **steps})


def test_every_gauge_is_there_from_the_beginning(api: Api) -> None:
    """An alarm needs a 0 to compare with; only what a reconcile or a prune tells is not known before the first one."""
    values = shown(api.reader.get("/metrics").text)

    known = [name for name in NAMES if not re.search("drift|reconciled|pruned", name)]
    assert {**dict.fromkeys(known, 0), "meldwatch_database_up": 1} == values


def test_the_drift_of_the_last_finished_reconcile_is_shown(api: Api) -> None:
    """By kind; a reconcile that is still under way does not hide it."""
    started = utcnow() - timedelta(minutes=5)
    finished = ReconcileRunRow(started_at=started, finished_at=started, unseen=3, changed=2, missing=1, examples={})
    row_factory.store(api.database, finished, ReconcileRunRow(started_at=utcnow(), unseen=9, examples={}))

    values = shown(api.reader.get("/metrics").text)

    drift = {kind: values[f"meldwatch_drift_{kind}"] for kind in ("unseen", "changed", "missing")}
    assert drift == {"unseen": 3, "changed": 2, "missing": 1}
    assert values["meldwatch_reconciled_seconds"] >= 300


def test_how_long_ago_the_last_prune_was_is_shown(api: Api) -> None:
    """By its lease; one that was begun and never ended says nothing."""
    ended = utcnow() - timedelta(minutes=5)
    row_factory.store(api.database, TaskLeaseRow(name="prune", holder="x", until=ended, ran_at=ended))

    assert shown(api.reader.get("/metrics").text)["meldwatch_pruned_seconds"] >= 300
    with api.database.write() as session:
        session.exec(update(TaskLeaseRow).values(ran_at=None))
    api.clock.move(10)
    assert "meldwatch_pruned_seconds" not in shown(api.reader.get("/metrics").text)


def test_the_counts_of_the_process_are_there_too(api: Api) -> None:
    """One page holds both, in Prometheus' own media type."""
    api.metrics.webhooks.labels("stored").inc(3)

    response = api.reader.get("/metrics")

    assert 'meldwatch_webhooks_total{result="stored"} 3.0' in response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_the_rows_are_counted_once_in_a_while(api: Api) -> None:
    """However often Prometheus asks, for five seconds it is told the same."""
    values = []
    for number, seconds in enumerate((0, 4.9, 0.1), start=1):
        row_factory.store(api.database, row_factory.event(number))
        api.clock.move(seconds)
        values.append(shown(api.reader.get("/metrics").text)["meldwatch_feed_position"])

    assert values == [1, 1, 3]


def test_a_database_that_is_away_is_a_gauge(away: Database) -> None:
    """What the process counted is told all the same."""
    client = TestClient(Parts(database=away).app(FeedNotifier(database=away)))

    response = client.get("/metrics", headers={"Authorization": f"Bearer {READ}"})

    assert (response.status_code, shown(response.text)) == (200, {"meldwatch_database_up": 0})
    assert "meldwatch_worker_calls_lost_total 0.0" in response.text


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("::1", 200), ("203.0.113.9", 401)])
def test_who_is_near_needs_no_token(api: Api, host: str, status: int) -> None:
    """Loopback reads, others send a token."""
    assert status == TestClient(api.app, client=(host, 1)).get("/metrics").status_code
