"""Batch insert of webhooks with deduplication (idempotency by event id), repeat counts and read requests.

PostgreSQL executes one statement for a batch, SQLite one short transaction; the results are the same. Bodies are
encrypted. A webhook without an event id is identified by the SHA-256 of its clear body.
"""

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

from runtime.database import Database, translate_error
from runtime.errors import OutOfReachError
from runtime.queues import reads
from runtime.security.encryption import Encryption
from schemas import tables
from schemas.meld.webhook import ReceivedWebhook
from service.ingest.inbox import WebhookTable
from service.ingest.payload import webhook_event_id


def make_webhook_table(database: Database, encryption: Encryption) -> WebhookTable:
    """Return the implementation for this database's dialect. Bodies are encrypted if ``encryption`` has a key."""
    return (
        PostgresWebhookTable(database, encryption) if database.is_postgres else SqliteWebhookTable(database, encryption)
    )


class SqliteWebhookTable:
    """Webhooks on SQLite, which has one writer at a time: what a transaction reads cannot change before it writes."""

    def __init__(self, database: Database, encryption: Encryption) -> None:
        self._database = database
        self._encryption = encryption

    def insert(self, webhooks: Sequence[ReceivedWebhook]) -> list[str]:
        """See ``service.ingest.inbox.WebhookTable``."""
        times = Counter(map(webhook_event_id, webhooks))
        first = {webhook_event_id(webhook): webhook for webhook in reversed(webhooks)}
        # Encrypted before the transaction takes the write lock. Repeats, which need no encryption, are few.
        bodies = {event_id: self._encryption.encrypt_bytes(webhook.body) for event_id, webhook in first.items()}
        with self._database.write() as session:
            known = select(tables.WebhookRow.event_id).where(col(tables.WebhookRow.event_id).in_(times))
            repeats = set(session.exec(known).all())
            rows = [
                self._row(event_id, first[event_id], bodies[event_id]) for event_id in times if event_id not in repeats
            ]
            if rows:
                session.exec(self._database.insert(tables.WebhookRow), params=rows)
            for event_id, count in times.items():
                self._count_repeats(session, event_id, count if event_id in repeats else count - 1)
            ids = {row["connection_id"] for row in rows} - {None}
            return reads.request_reads(self._database, session, ids, "webhook")

    def close(self) -> None:
        """See ``service.ingest.inbox.WebhookTable``; there is nothing to release."""

    def _row(self, event_id: str, webhook: ReceivedWebhook, body: bytes) -> dict[str, Any]:
        now = self._database.clock()
        return {
            **_columns(event_id, webhook),
            "body": body,
            "encrypted_with": self._encryption.key_name,
            "received_at": now,
            "delivered_at": now,
            "deliveries": 1,
            "ignored_at": now if webhook.hint.connection_id is None else None,
        }

    def _count_repeats(self, session: Session, event_id: str, count: int) -> None:
        if count:
            statement = update(tables.WebhookRow).where(col(tables.WebhookRow.event_id) == event_id)
            values = {"deliveries": tables.WebhookRow.deliveries + count, "delivered_at": self._database.now()}
            session.exec(statement.values(**values))


class PostgresWebhookTable:
    """Webhooks on PostgreSQL: one dedicated connection in autocommit mode, and one statement for each batch.

    Webhooks and read requests are inserted in the order of their ids, so that writers in several processes cannot
    deadlock. Repeats are counted in a second statement, after the commit, so that no lock on an existing webhook is
    held while the writer waits for a lock on a read request.
    """

    def __init__(self, database: Database, encryption: Encryption) -> None:
        self._engine = database.engine
        self._encryption = encryption
        self._connection: Connection | None = None

    def insert(self, webhooks: Sequence[ReceivedWebhook]) -> list[str]:
        """See ``service.ingest.inbox.WebhookTable``."""
        try:
            return self._insert(webhooks)
        except DBAPIError as error:
            self._drop_connection()
            raise translate_error(error) from error
        except PoolTimeoutError as error:
            raise OutOfReachError("All connections to the database are in use.") from error

    def close(self) -> None:
        """See ``service.ingest.inbox.WebhookTable``."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _insert(self, webhooks: Sequence[ReceivedWebhook]) -> list[str]:
        rows = [_columns(webhook_event_id(webhook), webhook) for webhook in webhooks]
        batch = {
            "rows": json.dumps(rows, default=datetime.isoformat, ensure_ascii=False),
            "bodies": [self._encryption.encrypt_bytes(webhook.body) for webhook in webhooks],
            "encrypted_with": self._encryption.key_name,
        }
        stored, connection_ids = self._execute(INSERT_SQL, batch)
        repeats = Counter(row["event_id"] for row in rows) - Counter(stored or ())
        if repeats:
            self._execute(COUNT_REPEATS_SQL, {"event_id": list(repeats.keys()), "times": list(repeats.values())})
        return list(connection_ids or ())

    def _execute(self, statement: str, parameters: dict[str, Any]) -> Any:  # noqa: ANN401 - one row
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return self._connection.exec_driver_sql(statement, parameters).one()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            with suppress(DBAPIError):
                self._connection.invalidate()
            self.close()


def _columns(event_id: str, webhook: ReceivedWebhook) -> dict[str, Any]:
    hint = webhook.hint
    return {
        "event_id": event_id,
        "type": hint.type,
        "account_id": hint.account_id,
        "connection_id": hint.connection_id,
        "hint_status": hint.status,
        "hint_reason": hint.status_reason,
        "occurred_at": hint.occurred_at,
        "signed_at": webhook.signed_at,
        "url": webhook.url,
        "headers": webhook.headers,
    }


# Requests reads as ``runtime.queues.reads.request_reads`` does with trigger "webhook".
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
), request AS (
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
                AND (read_request.woken_at IS NULL OR read_request.woken_at < now() - interval '{renotify_seconds} s')
            THEN now() ELSE read_request.woken_at
        END,
        attempts = 0,
        depth = 0,
        rechecks = 0,
        failed_at = NULL,
        replay_id = NULL
    RETURNING connection_id, woken_at = requested_at AS needs_notification
)
SELECT
    (SELECT array_agg(event_id) FROM stored),
    (SELECT array_agg(connection_id) FROM request WHERE needs_notification)
"""

INSERT_SQL = _INSERT.replace("{renotify_seconds}", str(reads.RENOTIFY_AFTER_SECONDS))

COUNT_REPEATS_SQL = """
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
