"""Refused requests for tests, made as the webhook endpoint makes them, and their stored rows."""

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select

from runtime.clock import utcnow
from runtime.database import Database
from schemas.meld.webhook import RefusedWebhook
from schemas.tables import RejectionRow
from service.rejected.limits import MAX_REJECTED_BODY_BYTES
from service.rejected.store import RejectionStore
from tests.support.meld_signature import sign
from tests.support.scripted_consumer import ENCRYPTION
from tests.support.webhook_factory import body

WRONG = "the secret of yesterday"
"""Secret that Meld signs with, and that is missing in the settings of these tests."""

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
    """Return a refused webhook that Meld signed."""
    raw = body("c1") if raw is None else raw
    at = at or utcnow()
    timestamp = (signed_at or at - timedelta(seconds=1)).isoformat()
    signature = sign(raw, timestamp=timestamp.encode(), secret=secret).decode()
    kept = {"meld-signature": signature, "meld-signature-timestamp": timestamp, **headers}
    return RefusedWebhook(reason, at, kept, raw[:MAX_REJECTED_BODY_BYTES], len(raw))


def noise(reason: str = "missing") -> RefusedWebhook:
    """Return an unsigned request of a scanner."""
    return RefusedWebhook(reason, utcnow(), {"user-agent": "scanner"}, b"GET /.env %d" % next(_NUMBERS), 20)


def make_store(database: Database, **limits: Any) -> RejectionStore:
    """Return a rejection store."""
    return RejectionStore(database=database, encryption=ENCRYPTION, **limits)


def rejections(database: Database) -> Sequence[RejectionRow]:
    """Return all stored rejections, by id."""
    with database.read() as session:
        return session.exec(select(RejectionRow).order_by(col(RejectionRow.id))).all()
