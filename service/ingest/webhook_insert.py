"""The inbox's two tables of one meaning: PostgreSQL takes a batch in one statement, SQLite in one short transaction.

Bodies are sealed on their way in; what a webhook without an event id is known by is the fingerprint of the clear one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, col, select

from runtime.database import Database, translate
from runtime.errors import OutOfReachError
from runtime.queues import reads
from runtime.security.encryption import Encryption
from schemas import tables
from schemas.meld.webhook import ReceivedWebhook
from service.ingest.inbox import WebhookTable


def table_for(database: Database, vault: Encryption) -> WebhookTable:
    """Return the inbox's table for this database's dialect. The vault seals the bodies, where it has a key."""
    return PostgresWebhookTable(database, vault) if database.is_postgres else SqliteWebhookTable(database, vault)


def event_id_of(delivery: ReceivedWebhook) -> str:
    """Return what a delivery is known by: Meld's ``eventId``, or the body's fingerprint where there is none."""
    return delivery.hint.event_id or "sha256:" + hashlib.sha256(delivery.body).hexdigest()


class SqliteWebhookTable:
    """SQLite has one writer at a time, so reading first and writing then is exact."""

    def __init__(self, database: Database, vault: Encryption) -> None:
        self._database = database
        self._vault = vault

    def insert(self, deliveries: Sequence[ReceivedWebhook]) -> list[str]:
        """See ``service.ingest.inbox.WebhookTable``."""
        times = Counter(map(event_id_of, deliveries))
        new = {event_id_of(delivery): delivery for delivery in reversed(deliveries)}
        # Before the lock is taken, which others wait for; those that turn out to be repeats are few.
        sealed = {event_id: self._vault.seal_bytes(delivery.body) for event_id, delivery in new.items()}
        with self._database.write() as session:
            known = select(tables.WebhookRow.event_id).where(col(tables.WebhookRow.event_id).in_(times))
            repeats = set(session.exec(known).all())
            rows = [
                self._row(event_id, new[event_id], sealed[event_id]) for event_id in times if event_id not in repeats
            ]
            if rows:
                session.exec(self._database.insert(tables.WebhookRow), params=rows)
            for event_id, count in times.items():
                self._count(session, event_id, count if event_id in repeats else count - 1)
            ids = {row["connection_id"] for row in rows} - {None}
            return reads.raise_jobs(self._database, session, ids, "webhook")

    def close(self) -> None:
        """See ``service.ingest.inbox.WebhookTable``; it holds on to nothing."""

    def _row(self, event_id: str, delivery: ReceivedWebhook, body: bytes) -> dict[str, Any]:
        now = self._database.clock()
        return {
            **_columns(event_id, delivery),
            "body": body,
            "encrypted_with": self._vault.key_name,
            "received_at": now,
            "delivered_at": now,
            "deliveries": 1,
            "ignored_at": now if delivery.hint.connection_id is None else None,
        }

    def _count(self, session: Session, event_id: str, count: int) -> None:
        if count:
            repeat = update(tables.WebhookRow).where(col(tables.WebhookRow.event_id) == event_id)
            more = {"deliveries": tables.WebhookRow.deliveries + count, "delivered_at": self._database.now()}
            session.exec(repeat.values(**more))


class PostgresWebhookTable:
    """One connection of its own, in autocommit, and one statement a batch.

    The webhooks are inserted in the order of their ids and the jobs raised in the order of theirs, so that writers of
    several processes cannot deadlock; the repeats are counted in a statement of their own, after the commit, so that
    no lock on an old row is held while one on a job is waited for.
    """

    def __init__(self, database: Database, vault: Encryption) -> None:
        self._engine = database.engine
        self._vault = vault
        self._connection: Connection | None = None

    def insert(self, deliveries: Sequence[ReceivedWebhook]) -> list[str]:
        """See ``service.ingest.inbox.WebhookTable``."""
        try:
            return self._insert(deliveries)
        except DBAPIError as error:
            self._drop()
            raise translate(error) from error
        except PoolTimeoutError as error:
            raise OutOfReachError("All connections to the database are in use.") from error

    def close(self) -> None:
        """See ``service.ingest.inbox.WebhookTable``."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _insert(self, deliveries: Sequence[ReceivedWebhook]) -> list[str]:
        rows = [_columns(event_id_of(delivery), delivery) for delivery in deliveries]
        batch = {
            "rows": json.dumps(rows, default=datetime.isoformat, ensure_ascii=False),
            "bodies": [self._vault.seal_bytes(delivery.body) for delivery in deliveries],
            "encrypted_with": self._vault.key_name,
        }
        stored, calls = self._execute(INSERT, batch)
        repeats = Counter(row["event_id"] for row in rows) - Counter(stored or ())
        if repeats:
            self._execute(COUNT, {"event_id": list(repeats.keys()), "times": list(repeats.values())})
        return list(calls or ())

    def _execute(self, statement: str, parameters: dict[str, Any]) -> Any:  # noqa: ANN401 - one row
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return self._connection.exec_driver_sql(statement, parameters).one()

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(DBAPIError):
                self._connection.invalidate()
            self.close()


def _columns(event_id: str, delivery: ReceivedWebhook) -> dict[str, Any]:
    hint = delivery.hint
    return {
        "event_id": event_id,
        "type": hint.type,
        "account_id": hint.account_id,
        "connection_id": hint.connection_id,
        "hint_status": hint.status,
        "hint_reason": hint.status_reason,
        "occurred_at": hint.occurred_at,
        "signed_at": delivery.signed_at,
        "url": delivery.url,
        "headers": delivery.headers,
    }


# The rules of a raise are those of runtime/queues/reads.py with trigger "webhook".
_INSERT = """
WITH incoming AS (
    SELECT * FROM ROWS FROM (
        json_to_recordset(%(rows)s::json) AS (
            event_id text, type text, account_id text, connection_id text, hint_status text, hint_reason text,
            occurred_at timestamptz, signed_at timestamptz, url text, headers jsonb
        ),
        unnest(%(bodies)b::bytea[])
    ) AS t (
        event_id, type, account_id, connection_id, hint_status, hint_reason, occurred_at, signed_at, url, headers, body
    )
), stored AS (
    INSERT INTO webhook (
        event_id, type, account_id, connection_id, hint_status, hint_reason, occurred_at, signed_at, url, headers, body,
        encrypted_with, received_at, delivered_at, deliveries, ignored_at
    )
    SELECT
        event_id, type, account_id, connection_id, hint_status, hint_reason, occurred_at, signed_at, url, headers, body,
        %(encrypted_with)s::text, now(), now(), 1, CASE WHEN connection_id IS NULL THEN now() END
    FROM incoming
    ORDER BY event_id COLLATE "C"
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id, connection_id
), raised AS (
    INSERT INTO read_request (
        connection_id, requested, completed, trigger, requested_at, due_at, woken_at, attempts, depth, rechecks
    )
    SELECT connection_id, 1, 0, 'webhook', now(), now(), now(), 0, 0, 0
    FROM (SELECT DISTINCT connection_id FROM stored WHERE connection_id IS NOT NULL) AS named
    ORDER BY connection_id COLLATE "C"
    ON CONFLICT (connection_id) DO UPDATE SET
        requested = read_request.requested + 1,
        trigger = 'webhook',
        requested_at = now(),
        due_at = LEAST(read_request.due_at, now()),
        woken_at = CASE
            WHEN (read_request.leased_until IS NULL OR read_request.leased_until < now())
                AND (read_request.woken_at IS NULL OR read_request.woken_at < now() - interval '{woken_seconds} s')
            THEN now() ELSE read_request.woken_at
        END,
        attempts = 0,
        depth = 0,
        rechecks = 0,
        failed_at = NULL,
        replay_id = NULL
    RETURNING connection_id, woken_at = requested_at AS is_called
)
SELECT
    (SELECT array_agg(event_id) FROM stored),
    (SELECT array_agg(connection_id) FROM raised WHERE is_called)
"""

INSERT = _INSERT.replace("{woken_seconds}", str(reads.WOKEN_SECONDS))

COUNT = """
WITH repeated AS (
    SELECT id, times
    FROM webhook JOIN unnest(%(event_id)s::text[], %(times)s::integer[]) AS t (event_id, times) USING (event_id)
    ORDER BY id
    FOR UPDATE OF webhook
), counted AS (
    UPDATE webhook SET deliveries = deliveries + times, delivered_at = now()
    FROM repeated WHERE webhook.id = repeated.id
    RETURNING 1
)
SELECT count(*) FROM counted
"""
