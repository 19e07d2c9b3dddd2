import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text, update
from sqlmodel import SQLModel, col

from runtime.clock import utcnow
from runtime.database import Database
from schemas import tables
from tests import crowd
from tests.service import rows
from tests.workers.estate import prune_on
from tests.workers.meldlike import document
from workers.fates import KINDS

LARGE = "webhook|delivery|rejection|observation|event|job|connection"
"""The tables that grow. The lease, the acts and the subscriptions are few."""

Said = tuple[str, Any]


@contextmanager
def listened_to(database: Database) -> Iterator[list[Said]]:
    """Gather what is said to the database, each statement once."""
    said: dict[str, Any] = {}

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        said.setdefault(statement, parameters)

    heard: list[Said] = []
    for engine in {database.engine, database._reader}:
        event.listen(engine, "before_cursor_execute", listen)
    yield heard
    for engine in {database.engine, database._reader}:
        event.remove(engine, "before_cursor_execute", listen)
    heard += said.items()


def old_rows() -> list[SQLModel]:
    """Return a row of each kind that may go, with all that is asked about it."""
    old = utcnow() - timedelta(days=1000)
    usual = {"subscription_id": "s", "connection_id": "z", "type": "t", "created_at": old, "outcomes": []}
    seen = {"account_id": "a", "trigger": "clock", "webhook_event_ids": [], "found": True, "digest": "d"}
    return [
        rows.webhook(id=1, connection_id="z", received_at=old, delivered_at=old, processed_at=old),
        rows.webhook(id=2, connection_id="z", received_at=old, delivered_at=old, failed_at=old, hint_status="DELETED"),
        rows.webhook(id=3, connection_id="z", received_at=old, delivered_at=utcnow(), processed_at=old),
        rows.job("z", requested=1, failed_at=old),
        rows.connection("z", status="DELETED"),
        *(
            tables.Observation(
                id=number, connection_id="z", generation=number, began_at=old, ended_at=old,
                document=document("z"), **seen,
            )
            for number in (1, 2)
        ),
        rows.event(1, "z", time=old, observation_id=1),
        tables.Delivery(id=1, position=1, event_id="event-1", delivered_at=old, **usual),
        tables.Delivery(id=2, position=2, event_id="e2", dead_at=old, **usual),
        tables.Rejection(
            id=1, digest="d", reason="r", first_at=old, received_at=old, size=0, headers={}, body=b""
        ),
    ]  # fmt: skip


def ran(database: Database) -> list[Said]:
    """Prune, so that one row of each kind goes; return what was said to the large tables."""
    with listened_to(database) as said:
        removed = prune_on(database).run(who="me")

    assert removed == {**dict.fromkeys(KINDS, 1), "failures": 2}
    return [each for each in said if re.search(rf'(FROM|INTO|UPDATE) "?({LARGE})\b', each[0])]


def test_every_row_is_found_by_a_key_on_sqlite(sqlite_url: str) -> None:
    """No statement of a prune goes through a whole table."""
    database = Database(sqlite_url)
    rows.store(database, *old_rows())
    plans = {}
    for statement, parameters in ran(database):
        with database.read() as session:
            steps = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        plans[statement] = [step[3] for step in steps]

    assert len(plans) >= 20
    assert {said: plan for said, plan in plans.items() if any(re.match(rf"SCAN ({LARGE})\b", s) for s in plan)} == {}
    database.close()


def test_every_row_is_found_by_a_key_on_postgres(postgres_url: str) -> None:
    """Nor does the server choose to, although it knows how many rows there are."""
    database = Database(postgres_url)
    crowd.fill(database)
    with database.write() as session:
        # What is young comes later; and the crowd's first rows make room.
        for table in (tables.Webhook, tables.Observation, tables.Delivery, tables.Rejection):
            session.exec(update(table).where(col(table.id) <= 3).values(id=col(table.id) + 1_000_000))
        session.exec(update(tables.Event).where(col(tables.Event.position) == 1).values(position=1_000_000))
        session.connection().execute(text("ANALYZE"))
    rows.store(database, *old_rows())
    plans = {}
    for statement, parameters in ran(database):
        with database.read() as session:
            steps = session.connection().exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
        plans[statement] = "\n".join(steps)

    assert len(plans) >= 20
    assert {said: plan for said, plan in plans.items() if re.search(rf"Seq Scan on ({LARGE})\b", plan)} == {}
    database.close()


@pytest.mark.parametrize("hint", [None, "ACTIVE"])
@pytest.mark.parametrize("mirror", [None, "ACTIVE", "DELETED"])
def test_what_tells_of_a_deletion_stays_until_the_mirror_does(
    database: Database, mirror: str | None, hint: str | None
) -> None:
    """A 404 is believed for its sake; every other hint goes, as does one of DELETED that the mirror has heard."""
    old = utcnow() - timedelta(days=1000)
    steps = {"received_at": old, "delivered_at": old, "processed_at": old}
    rows.store(database, rows.webhook(hint_status="DELETED", **steps), rows.webhook(hint_status=hint, **steps))
    if mirror is not None:
        rows.store(database, rows.connection(status=mirror))

    removed = prune_on(database).run(who="me")

    assert removed["webhooks"] == (2 if mirror == "DELETED" else 1)
