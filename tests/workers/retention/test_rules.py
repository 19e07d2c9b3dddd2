import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlmodel import SQLModel, col

from runtime.clock import utcnow
from runtime.database import Database
from schemas import tables
from tests.support import query_plans, row_factory
from tests.support.scripted_meld import document
from tests.workers.retention.retention_oracle import make_prune
from workers.retention.rules import KINDS

LARGE = "webhook|delivery|rejection|observation|event|read_request|connection"
"""The tables that grow. Leases, audit entries and subscriptions are few."""

KEYS: tuple[Any, ...] = tuple(
    col(key)
    for key in (
        tables.WebhookRow.id, tables.ObservationRow.id, tables.DeliveryRow.id, tables.RejectionRow.id,
        tables.EventRow.position,
    )
)  # fmt: skip


def old_rows() -> list[SQLModel]:
    """Return a removable row of each kind, with the rows that its rule looks up."""
    old = utcnow() - timedelta(days=1000)
    usual = {"subscription_id": "s", "connection_id": "z", "type": "t", "created_at": old, "outcomes": []}
    seen = {"account_id": "a", "trigger": "clock", "webhook_event_ids": [], "found": True, "digest": "d"}
    return [
        row_factory.webhook(id=1, connection_id="z", received_at=old, delivered_at=old, processed_at=old),
        row_factory.webhook(
            id=2, connection_id="z", received_at=old, delivered_at=old, failed_at=old, hint_status="DELETED"
        ),
        row_factory.webhook(id=3, connection_id="z", received_at=old, delivered_at=utcnow(), processed_at=old),
        row_factory.read_request("z", requested=1, failed_at=old),
        row_factory.connection("z", status="DELETED"),
        *(
            tables.ObservationRow(
                id=number, connection_id="z", generation=number, began_at=old, ended_at=old,
                document=document("z"), **seen,
            )
            for number in (1, 2)
        ),
        row_factory.event(1, "z", time=old, observation_id=1),
        tables.DeliveryRow(id=1, position=1, event_id="event-1", delivered_at=old, **usual),
        tables.DeliveryRow(id=2, position=2, event_id="e2", dead_at=old, **usual),
        tables.RejectionRow(
            id=1, digest="d", reason="r", first_at=old, received_at=old, size=0, headers={}, body=b"", is_likely=True
        ),
    ]  # fmt: skip


def test_every_row_is_found_by_a_key(database: Database) -> None:
    """No statement of a prune scans a whole table, although the database's statistics are up to date."""
    query_plans.fill_tables(database)
    with database.write() as session:
        # Old rows have the lowest keys: move the first ones of the crowd away.
        for key in KEYS:
            session.exec(update(key.class_).where(key <= 3).values({key.key: key + 1_000_000}))
        session.connection().execute(text("ANALYZE"))
    row_factory.store(database, *old_rows())

    with query_plans.record_statements(database) as sent:
        removed = make_prune(database).run(who="me")
    asked = dict(each for each in sent if re.search(rf'(FROM|INTO|UPDATE) "?({LARGE})\b', each[0]))
    plans = dict(zip(asked, query_plans.explain_all(database, asked.items()), strict=True))

    assert removed == {**dict.fromkeys(KINDS, 1), "failures": 2}
    assert len(plans) >= 20
    assert {said: plan for said, plan in plans.items() if re.search(rf"(SCAN|Seq Scan on) ({LARGE})\b", plan)} == {}


@pytest.mark.parametrize("hint", [None, "ACTIVE"])
@pytest.mark.parametrize("mirror", [None, "ACTIVE", "DELETED"])
def test_evidence_of_a_deletion_is_kept_until_the_mirror_is_deleted(
    database: Database, mirror: str | None, hint: str | None
) -> None:
    """A read's 404 is believed because of it; other hints are removed, also DELETED once the mirror is deleted."""
    old = utcnow() - timedelta(days=1000)
    steps = {"received_at": old, "delivered_at": old, "processed_at": old}
    row_factory.store(
        database, row_factory.webhook(hint_status="DELETED", **steps), row_factory.webhook(hint_status=hint, **steps)
    )
    if mirror is not None:
        row_factory.store(database, row_factory.connection(status=mirror))

    removed = make_prune(database).run(who="me")

    assert removed["webhooks"] == (2 if mirror == "DELETED" else 1)
