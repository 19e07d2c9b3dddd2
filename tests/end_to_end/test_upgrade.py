import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import inspect, text, update
from sqlmodel import col, select

from migrations import run
from runtime.clock import utcnow
from runtime.database import Database
from runtime.metrics import Metrics
from runtime.security.encryption import Encryption
from runtime.settings import Settings
from schemas.push import PushResult
from schemas.tables import METADATA, DeliveryQueueRow, DeliveryRow, ReadRequestRow, SubscriptionRow, WebhookRow
from tests.support.processes import servers
from tests.support.scripted_consumer import ACKNOWLEDGED, make_dispatcher
from tests.support.webhook_factory import body, store
from workers.history.rebuild import Rebuild
from workers.retention.prune import Prune

DUMPS = Path(__file__).parent.parent / "migrations" / "dumps"
KEY = SecretStr("bWVsZHdhdGNoIDAuMS4wJ3Mga2V5LCBmb3IgdGVzdHM=")
"""The key that encrypts the subscriptions' secrets in the dumps."""

RENAMED_TABLES = {
    "job": "read_request",
    "lane": "delivery_queue",
    "gate": "circuit_breaker",
    "sweep": "reconcile_run",
    "counter": "feed_counter",
}
"""The tables of version 0.1.0 with their current names."""

RENAMED_COLUMNS = {"raised_at": "requested_at"}

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(params=sorted(DUMPS.glob("*.sql")), ids=lambda path: path.stem)
def old_database(request: pytest.FixtureRequest, test_run: servers.Run, tmp_path: Path) -> Iterator[Database]:
    """The database of each earlier release, loaded from its dump."""
    dump: str = request.param.read_text(encoding="utf-8")
    if request.param.stem.endswith("sqlite"):
        path = tmp_path / "meldwatch.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(dump)
        with closing(Database(f"sqlite:///{path}")) as database:
            yield database
    else:
        with servers.postgres_database(test_run, f"old_{os.getpid()}", template="template0") as url:
            with psycopg.connect(url) as server:
                server.execute(dump.encode())
            with closing(Database(url)) as database:
                yield database


class Consumer:
    """Acknowledges every push, and records the order."""

    def __init__(self) -> None:
        self.event_ids: list[str] = []

    def send(self, _url: str, headers: Mapping[str, str], _body: bytes) -> PushResult:
        """Acknowledge a push."""
        self.event_ids.append(headers["webhook-id"])
        return ACKNOWLEDGED


def contents(database: Database) -> Rows:
    """Return all rows of all tables."""
    with database.engine.connect() as connection:
        tables = set(inspect(connection).get_table_names()) - {"alembic_version"}
        return {
            table: [dict(row) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2")).mappings()]
            for table in sorted(tables)
        }


def test_an_upgrade_preserves_every_row(old_database: Database) -> None:
    """Afterwards the tables are those of this version. The dump has rows in every table."""
    before = contents(old_database)

    run.upgrade(old_database.engine)

    after = contents(old_database)
    preserved = {
        table: [
            {name: row[RENAMED_COLUMNS.get(name, name)] for name in old_row}
            for row, old_row in zip(after[RENAMED_TABLES.get(table, table)], rows, strict=True)
        ]
        for table, rows in before.items()
    }
    assert preserved == before
    assert all(before.values())
    with old_database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_an_upgraded_database_has_a_consistent_history(old_database: Database) -> None:
    """The projection equals the mirror and the events, and a prune preview succeeds."""
    run.upgrade(old_database.engine)
    prune = Prune(
        database=old_database, settings=Settings(), holder="test", wait=lambda _seconds: False, metrics=Metrics()
    )

    assert list(Rebuild(database=old_database, clock=utcnow).check(lambda _count: None)) == []
    assert set(prune.preview().values()) == {0}


def test_an_upgraded_database_delivers_and_receives(old_database: Database) -> None:
    """Pending deliveries are pushed in order with the old secrets, and new webhooks are stored."""
    run.upgrade(old_database.engine)
    consumer = Consumer()
    with old_database.write() as session:
        statement = select(DeliveryRow).where(
            col(DeliveryRow.delivered_at).is_(None), col(DeliveryRow.dead_at).is_(None)
        )
        pending = session.exec(statement.order_by(col(DeliveryRow.id))).all()
        expected = [(row.connection_id, row.event_id) for row in pending]
        session.exec(
            update(DeliveryQueueRow).where(col(DeliveryQueueRow.due_at).is_not(None)).values(due_at=old_database.now())
        )
        subscriptions = session.exec(select(SubscriptionRow.id)).all()
    connection_of = {event_id: connection_id for connection_id, event_id in expected}

    deliver = make_dispatcher(old_database, consumer, encryption=Encryption([KEY]), time_slice_seconds=60)
    for subscription_id in subscriptions:
        deliver.deliver(subscription_id)
    store(old_database, body("ghost", event_id="after-the-upgrade"))

    assert expected
    pushed = [(connection_of[event_id], event_id) for event_id in consumer.event_ids]
    for connection_id in connection_of.values():
        assert [pair for pair in pushed if pair[0] == connection_id] == [
            pair for pair in expected if pair[0] == connection_id
        ]
    with old_database.read() as session:
        assert session.exec(select(WebhookRow.deliveries).where(WebhookRow.event_id == "after-the-upgrade")).one() == 1
        request = session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == "ghost")).one()
    assert request.requested > request.completed
    assert request.failed_at is None


WORK_OF_0_1_0 = (
    """INSERT INTO job AS j (connection_id, requested, completed, trigger, raised_at, due_at, woken_at, attempts, depth,
           rechecks)
       VALUES ('of-the-old-process', 1, 0, 'webhook', now(), now(), now(), 0, 0, 0)
       ON CONFLICT (connection_id) DO UPDATE SET requested = j.requested + 1, raised_at = now()""",
    "SELECT connection_id FROM job WHERE connection_id = 'of-the-old-process' ORDER BY connection_id FOR UPDATE",
    """UPDATE job SET lease_token = 'token', leased_until = now() + interval '30 s'
       WHERE connection_id = 'of-the-old-process' AND requested > completed RETURNING requested""",
    "UPDATE job SET completed = 1, lease_token = NULL WHERE lease_token = 'token'",
    "UPDATE gate SET failures = gate.failures + 1, connection_id = 'c' WHERE name = 'meld'",
    """INSERT INTO lane (subscription_id, connection_id, due_at) VALUES ('s', 'c', now())
       ON CONFLICT (subscription_id, connection_id) DO UPDATE SET due_at = now() WHERE lane.due_at IS NULL""",
    """INSERT INTO sweep (started_at, pages, listed, unreadable, unseen, changed, missing, examples)
       VALUES (now(), 0, 0, 0, 0, 0, 0, '{}') RETURNING id""",
    "SELECT value FROM counter WHERE name = 'feed' FOR UPDATE",
    "UPDATE counter SET value = counter.value + 1 WHERE name = 'feed' RETURNING value",
)
"""Statements of version 0.1.0 on tables that were renamed later."""


def test_processes_of_the_previous_version_work_until_they_are_replaced(postgres_url: str) -> None:
    """A release is migrated first; running processes still find the renamed tables under their old names."""
    with closing(Database(postgres_url)) as database:
        for _twice in range(2):
            with database.engine.begin() as connection:
                for statement in WORK_OF_0_1_0:
                    connection.execute(text(statement.replace(":", "\\:")))
        with database.read() as session:
            request = session.exec(
                select(ReadRequestRow).where(ReadRequestRow.connection_id == "of-the-old-process")
            ).one()

    assert (request.requested, request.completed, request.lease_token) == (2, 1, None)


def test_processes_with_a_role_of_their_own_work_on_too(postgres_url: str) -> None:
    """A role may do with the view that has a table's old name what it may do with the table."""
    role = f"app {os.getpid()}"
    with closing(Database(postgres_url)) as database:
        run.downgrade(database.engine, "0002")
        with database.engine.begin() as connection:
            connection.execute(text(f'CREATE ROLE "{role}"'))
            connection.execute(text(f'GRANT SELECT, UPDATE ON counter TO "{role}"'))

        run.upgrade(database.engine)

        with database.engine.begin() as connection:
            connection.execute(text(f'SET LOCAL ROLE "{role}"'))
            value = connection.execute(text("UPDATE counter SET value = counter.value + 1 RETURNING value"))
            assert value.scalar_one() == 1
        with database.engine.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{role}"'))
            connection.execute(text(f'DROP ROLE "{role}"'))
