"""Factory of webhooks for tests, in Meld's form; stored through the real inbox."""

import itertools
import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

from runtime.database import Database
from schemas.meld.webhook import ReceivedWebhook
from schemas.tables import WebhookRow
from service.ingest.payload import parse_hint
from service.ingest.webhook_insert import make_webhook_table
from tests.support.encryption_keys import ENCRYPTION

STATUS_CHANGE = "BANK_LINKING_CONNECTION_STATUS_CHANGE"
DELETED = "BANK_LINKING_CONNECTION_DELETED"
_NUMBERS = itertools.count(1)
_START = datetime.now(UTC)


def body(connection_id: str | None, type_: str = STATUS_CHANGE, event_id: str | None = None, **payload: Any) -> bytes:
    """Return the body of a webhook, with a timestamp after those of earlier calls."""
    number = next(_NUMBERS)
    named = {"connectionId": connection_id} if connection_id is not None else {}
    envelope = {
        "eventType": type_,
        "eventId": event_id or f"event-{number}",
        "timestamp": (_START + timedelta(milliseconds=number)).isoformat().replace("+00:00", "Z"),
        "accountId": "acct",
        "profileId": None,
        "version": "2023-12-19",
        "payload": {"requestId": "req", **named, **payload},
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


def received_webhook(raw: bytes) -> ReceivedWebhook:
    """Return a verified webhook with this body."""
    return ReceivedWebhook(
        body=raw,
        headers={"meld-signature": "sig"},
        url="https://example.com/webhooks/meld",
        signed_at=datetime.now(UTC),
        hint=parse_hint(raw),
    )


def store(database: Database, *bodies: bytes) -> list[str]:
    """Store webhooks, and return the connections whose workers have to be notified."""
    with closing(make_webhook_table(database, ENCRYPTION)) as table:
        return table.insert([received_webhook(raw) for raw in bodies])


def decrypted_body(webhook: WebhookRow) -> bytes:
    """Return the original body of a stored webhook."""
    return ENCRYPTION.decrypt_bytes(webhook.body, webhook.encrypted_with)
