"""Refused webhooks for tests: made as the route makes them, and the rows that become of them."""

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select

from runtime.clock import utcnow
from runtime.database import Database
from schemas.meld.webhook import MAX_REJECTED_BODY_BYTES, RefusedWebhook
from schemas.tables import RejectionRow
from service.rejected.store import RejectionStore
from tests.support.meld_signature import sign
from tests.support.scripted_consumer import VAULT
from tests.support.webhook_factory import body

WRONG = "the secret of yesterday"
"""What Meld signs with, and the settings of these tests do not know."""

_NUMBERS = itertools.count(1)


def refused(
    raw: bytes | None = None,
    reason: str = "wrong",
    *,
    at: datetime | None = None,
    signed_at: datetime | None = None,
    secret: str = WRONG,
    **headers: str,
) -> RefusedWebhook:
    """Return a webhook as Meld signs it, refused."""
    raw = body("c1") if raw is None else raw
    at = at or utcnow()
    timestamp = (signed_at or at - timedelta(seconds=1)).isoformat()
    signature = sign(raw, timestamp=timestamp.encode(), secret=secret).decode()
    kept = {"meld-signature": signature, "meld-signature-timestamp": timestamp, **headers}
    return RefusedWebhook(reason, at, kept, raw[:MAX_REJECTED_BODY_BYTES], len(raw))


def noise(reason: str = "missing") -> RefusedWebhook:
    """Return what a stranger sends."""
    return RefusedWebhook(reason, utcnow(), {"user-agent": "scanner"}, b"GET /.env %d" % next(_NUMBERS), 20)


def evidence(database: Database, **bounds: Any) -> RejectionStore:
    """Return what writes them down."""
    return RejectionStore(database=database, vault=VAULT, **bounds)


def rejections(database: Database) -> Sequence[RejectionRow]:
    """Return all rows, in order."""
    with database.read() as session:
        return session.exec(select(RejectionRow).order_by(col(RejectionRow.id))).all()
