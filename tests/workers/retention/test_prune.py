import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, update
from sqlmodel import SQLModel, col, select

from runtime.clock import utcnow
from runtime.database import Database
from runtime.metrics import Metrics
from runtime.settings import Settings
from schemas import tables
from tests.end_to_end.manual_time import empty
from tests.support import row_factory
from tests.support.random_rounds import rounds
from tests.support.scripted_consumer import subscribe
from tests.support.scripted_meld import ScriptedReader, make_refetcher
from tests.support.scripted_meld import found as seen
from tests.support.webhook_factory import body, store
from tests.workers.history.random_past import Past, random_reads
from tests.workers.retention.retention_oracle import StoredRows, make_prune, retentions, stored_rows
from workers.retention.prune import PruneError
from workers.retention.rules import KINDS
from workers.retention.scan import WINDOW_ROWS

MINUTES = st.integers(-1, 30)
EXAMPLES = settings(max_examples=rounds(8), suppress_health_check=[HealthCheck.function_scoped_fixture])


def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables."""
    with database.read() as session:
        return {
            table.name: sorted(map(tuple, session.connection().execute(table.select())), key=repr)
            for table in SQLModel.metadata.sorted_tables
        }


def left(database: Database) -> dict[str, set[int]]:
    """Return the keys of the stored rows; of the webhooks also those without a body."""
    with database.read() as session:
        return {
            "webhooks": set(session.exec(select(tables.WebhookRow.id)).all()),
            "empty": set(session.exec(select(tables.WebhookRow.id).where(tables.WebhookRow.body == b"")).all()),
            "observations": set(session.exec(select(tables.ObservationRow.id)).all()),
            "events": set(session.exec(select(tables.EventRow.position)).all()),
            "deliveries": set(session.exec(select(tables.DeliveryRow.id)).all()),
            "rejections": set(session.exec(select(tables.RejectionRow.id)).all()),
        }


@EXAMPLES
@given(stored_rows(), retentions())
def test_expired_rows_are_removed_and_no_others(database: Database, stored: StoredRows, retention: Settings) -> None:
    """For any rows, ages and settings the oracle's rows are removed, and no others; a second run removes nothing."""
    empty(database)
    row_factory.store(database, *stored.rows(utcnow()))
    gone = stored.find_removable(retention)
    before, there = everything(database), left(database)

    previewed = make_prune(database, retention).preview()
    unchanged = everything(database)
    removed = make_prune(database, retention).run(who="me")
    after = left(database)
    again = make_prune(database, retention).run(who="me")

    assert before == unchanged
    assert after == {
        "webhooks": there["webhooks"] - gone["webhooks"] - (gone["failures"] & there["webhooks"]),
        "empty": gone["bodies"],
        "observations": there["observations"] - gone["observations"],
        "events": there["events"] - gone["events"],
        "deliveries": there["deliveries"] - gone["deliveries"] - gone["dead"],
        "rejections": there["rejections"] - gone["rejections"],
    }
    counts = {kind: len(gone[kind]) for kind in KINDS}
    counts["failures"] += len(gone["dead"])
    assert (previewed, removed, again) == (counts, counts, dict.fromkeys(KINDS, 0))


@settings(max_examples=rounds(5), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(random_reads(), MINUTES, MINUTES), min_size=2, max_size=4))
def test_the_projection_equals_the_live_tables_whatever_was_pruned(database: Database, made: list[Any]) -> None:
    """Random histories with prunes in between, each with cutoffs of its own: no rebuild finds a difference."""
    past = Past(database)
    past.clear()
    start = past.tick()
    for reads, events, observations in made:
        past.make_reads(*reads)
        mirror = past.rows(tables.ConnectionRow, col(tables.ConnectionRow.id))
        retention = {
            "retain_events_days": days_since(start + timedelta(minutes=events)),
            "retain_observations_days": days_since(start + timedelta(minutes=observations)),
            "retain_bodies_days": 0,
        }
        make_prune(database, Settings.model_validate(retention)).run(who="me")

        assert past.check() == past.repair() == []
        assert mirror == past.rows(tables.ConnectionRow, col(tables.ConnectionRow.id))


def days_since(time: datetime) -> float:
    return (utcnow() - time).total_seconds() / 86400


NOTHING_KEPT = Settings.model_validate({f"retain_{name}_days": 0 for name in (*KINDS,)})


def test_a_repeat_is_known_without_its_body(database: Database) -> None:
    """A webhook that Meld repeats after its body was emptied is a duplicate: counted, but not read again."""
    sent = body("c1", event_id="e1")
    store(database, sent)
    with database.write() as session:
        late = utcnow() - timedelta(days=16.9)
        steps = {"processed_at": late, "received_at": late, "delivered_at": late}
        session.exec(update(tables.WebhookRow).values(**steps))
        session.exec(update(tables.ReadRequestRow).values(completed=1))

    removed = make_prune(database, NOTHING_KEPT).run(who="me")
    notified = store(database, sent)

    assert (removed["webhooks"], removed["bodies"], notified) == (0, 1, [])
    with database.read() as session:
        webhook = session.exec(select(tables.WebhookRow)).one()
        request = session.exec(select(tables.ReadRequestRow)).one()
    assert (webhook.body, webhook.headers, webhook.encrypted_with, webhook.deliveries) == (b"", {}, None, 2)
    assert webhook.emptied_at is not None
    assert (request.requested, request.completed) == (1, 1)


def test_a_repeat_keeps_an_old_event_id(database: Database) -> None:
    """Its age counts from the last delivery."""
    old, young = utcnow() - timedelta(days=300), utcnow() - timedelta(days=1)
    row_factory.store(database, row_factory.webhook(received_at=old, processed_at=old, delivered_at=young))

    assert make_prune(database).run(who="me")["webhooks"] == 0


def test_many_rows_are_removed_window_by_window_in_small_commits(database: Database) -> None:
    """More rows than one window has are removed in batches of limited size, with a pause after each commit."""
    old = utcnow() - timedelta(days=100)
    webhooks = [row_factory.webhook(received_at=old, delivered_at=old, processed_at=old) for _ in range(1_203)]
    row_factory.store(database, *webhooks[:700], row_factory.webhook("young", received_at=utcnow()), *webhooks[700:])
    rests: list[int] = []

    def wait(_seconds: float) -> bool:
        with database.read() as session:
            rests.append(session.exec(select(func.count()).select_from(tables.WebhookRow)).one())
        return False

    counts: list[int] = []
    removed = make_prune(database, wait=wait, max_batch_rows=100).run(counts.append, who="me")

    assert removed["webhooks"] == 1_203
    assert max(before - after for before, after in pairwise(rests)) <= 100
    assert rests[-1] == 1
    assert counts[-1] == 1_203
    assert counts == sorted(counts)


def test_the_scan_ends_after_a_young_window(database: Database) -> None:
    """Rows are in the order of their keys: the scan ends after a window without old rows."""
    old = utcnow() - timedelta(days=100)
    young = [row_factory.webhook(processed_at=old, received_at=utcnow()) for _ in range(WINDOW_ROWS)]
    row_factory.store(
        database, *young, row_factory.webhook("strange", received_at=old, delivered_at=old, processed_at=old)
    )

    assert make_prune(database).preview()["webhooks"] == 0


def test_one_runs_at_a_time(database: Database) -> None:
    """A second run is refused while one has the lease, a dry run is not; afterwards the second run may start."""
    old = utcnow() - timedelta(days=100)
    row_factory.store(database, row_factory.webhook(received_at=old, delivered_at=old, processed_at=old))
    other = make_prune(database, holder="you")
    refused: list[str] = []

    def wait(_seconds: float) -> bool:
        with pytest.raises(PruneError, match="Another prune is running"):
            other.run(who="you")
        refused.append(str(other.preview()["webhooks"]))
        return False

    removed = make_prune(database, wait=wait).run(who="me")

    assert removed["webhooks"] == 1
    assert refused[0] == "1"
    assert refused[-1] == "0"
    assert other.run(who="you")["webhooks"] == 0


def test_an_interrupted_run_is_due_again(database: Database) -> None:
    """An interrupted run is due at once, not a day later; its removed rows stay removed and are in the audit entry."""
    old = utcnow() - timedelta(days=100)
    row_factory.store(
        database, *(row_factory.webhook(received_at=old, delivered_at=old, processed_at=old) for _ in range(9))
    )
    waits = iter([False, False, False, False, True])
    first = make_prune(database)
    never = first.is_due(86400)

    with pytest.raises(PruneError, match="Prune was stopped"):
        make_prune(database, wait=lambda _seconds: next(waits), max_batch_rows=3).run(who="clock")
    left = audit_entries(database)[0].details["webhooks"]

    assert 0 < left < 9
    assert (never, first.is_due(86400)) == (False, False)
    with database.write() as session:
        session.exec(update(tables.TaskLeaseRow).values(ran_at=old))
    assert first.is_due(86400)
    assert first.run(who="me")["webhooks"] == 9 - left
    assert not first.is_due(86400)


def audit_entries(database: Database) -> list[tables.AuditRow]:
    with database.read() as session:
        return list(session.exec(select(tables.AuditRow).order_by(col(tables.AuditRow.id))).all())


def test_removed_rows_are_audited_and_counted(database: Database) -> None:
    """Each run has one audit entry with its actor and the numbers by kind; metrics count the rows, too."""
    old = utcnow() - timedelta(days=100)
    row_factory.store(database, row_factory.webhook(received_at=old, delivered_at=old, ignored_at=old))
    metrics = Metrics()

    make_prune(database, metrics=metrics).run(who="clock")

    (entry,) = audit_entries(database)
    assert (entry.who, entry.act, entry.details) == ("clock", "rows.pruned", {**dict.fromkeys(KINDS, 0), "webhooks": 1})
    assert metrics.registry.get_sample_value("meldwatch_rows_pruned_total", {"kind": "webhooks"}) == 1


def test_a_row_that_changes_meanwhile_is_checked_again(database: Database) -> None:
    """A row that was found, but is needed again before its removal, is kept."""
    old = utcnow() - timedelta(days=200)
    failed = row_factory.webhook("w", received_at=old, delivered_at=old, failed_at=old)
    delivery = tables.DeliveryRow(
        subscription_id="s", connection_id="c1", position=1, event_id="e", type="t", created_at=old, outcomes=[],
        dead_at=old,
    )  # fmt: skip
    row_factory.store(database, failed, delivery, row_factory.read_request("c1", requested=1, failed_at=old))

    def wait(_seconds: float) -> bool:
        with database.write() as session:
            session.exec(update(tables.DeliveryRow).values(dead_at=None))
            session.exec(update(tables.ReadRequestRow).values(failed_at=None))
        return False

    assert make_prune(database).preview()["failures"] == 2
    assert make_prune(database, wait=wait).run(who="me")["failures"] == 0


def test_locked_rows_are_skipped(postgres_url: str) -> None:
    """Prune does not wait for locked rows; the next run removes them."""
    database = Database(postgres_url)
    old = utcnow() - timedelta(days=100)
    row_factory.store(
        database, *(row_factory.webhook(received_at=old, delivered_at=old, processed_at=old) for _ in range(3))
    )
    with database.write() as session:
        session.exec(select(tables.WebhookRow).limit(1).with_for_update()).one()
        removed = make_prune(database).run(who="me")

    assert removed["webhooks"] == 2
    assert make_prune(database).run(who="me")["webhooks"] == 1
    database.close()


def test_a_prune_beside_workers_loses_nothing(database: Database, reader: ScriptedReader) -> None:
    """Beside duplicate webhooks, reads, pending deliveries and rebuilds: needed rows are kept, the others removed."""
    refetcher = make_refetcher(database, reader)
    subscribe(database, types=["connection.status_reason_changed"])
    past, found = Past(database), list[Any]()

    def read_webhook(number: int) -> None:
        id_ = f"c{number % 3}"
        answer = {"statusReason": f"REASON_{number}"} if id_ == "c2" else {"status": f"STATUS_{number}"}
        reader.answers[id_] = seen(id_, **answer)
        sent = body(id_, event_id=f"e{number}")
        store(database, sent, sent)
        refetcher.refetch(id_)

    beside = (
        lambda: make_prune(database, NOTHING_KEPT, max_batch_rows=7).run(who="me"),
        lambda: found.extend(past.check()),
        lambda: found.extend(past.repair()),
    )
    with repeated_in_threads(*beside):
        for number in range(60):
            read_webhook(number)
    make_prune(database, NOTHING_KEPT).run(who="me")

    assert found == past.check() == []
    webhooks = past.rows(tables.WebhookRow, col(tables.WebhookRow.id))
    assert [(row["event_id"], row["deliveries"], row["body"]) for row in webhooks] == [
        (f"e{number}", 2, b"") for number in range(60)
    ]
    assert all(row["processed_at"] for row in webhooks)
    mirror = past.rows(tables.ConnectionRow, col(tables.ConnectionRow.id))
    assert [(row["status"], row["status_reason"], row["sequence"]) for row in mirror] == [
        ("STATUS_57", None, 20), ("STATUS_58", None, 20), ("ACTIVE", "REASON_59", 20)
    ]  # fmt: skip
    assert len(past.rows(tables.ObservationRow)) == 3
    # All events of the third connection but the first have a pending delivery.
    pending = [row["position"] for row in past.rows(tables.DeliveryRow, col(tables.DeliveryRow.id))]
    assert pending == [row["position"] for row in past.rows(tables.EventRow, col(tables.EventRow.position))]
    assert len(pending) == 19


@contextmanager
def repeated_in_threads(*works: Callable[[], object]) -> Iterator[None]:
    """Repeat functions in threads of their own while the block runs; raise the first error."""
    is_over = threading.Event()

    def repeat(work: Callable[[], object]) -> None:
        while not is_over.is_set():
            work()

    with ThreadPoolExecutor(len(works)) as pool:
        done = [pool.submit(repeat, work) for work in works]
        try:
            yield
        finally:
            is_over.set()
    for each in done:
        each.result()
