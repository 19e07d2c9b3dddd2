"""Refused webhooks for tests: made as the route makes them, and the rows that become of them."""

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select

from runtime.clock import utcnow
from runtime.database import Database
from schemas.tables import Rejection
from schemas.webhook import Refused
from service.evidence import LONGEST_KEPT, Evidence
from tests.inbox import body
from tests.service.signing import sign
from tests.workers.pushlike import VAULT

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
) -> Refused:
    """Return a webhook as Meld signs it, refused."""
    raw = body("c1") if raw is None else raw
    at = at or utcnow()
    timestamp = (signed_at or at - timedelta(seconds=1)).isoformat()
    signature = sign(raw, timestamp=timestamp.encode(), secret=secret).decode()
    kept = {"meld-signature": signature, "meld-signature-timestamp": timestamp, **headers}
    return Refused(reason, at, kept, raw[:LONGEST_KEPT], len(raw))


def noise(reason: str = "missing") -> Refused:
    """Return what a stranger sends."""
    return Refused(reason, utcnow(), {"user-agent": "scanner"}, b"GET /.env %d" % next(_NUMBERS), 20)


def evidence(database: Database, **bounds: Any) -> Evidence:
    """Return what writes them down."""
    return Evidence(database=database, vault=VAULT, **bounds)


def rejections(database: Database) -> Sequence[Rejection]:
    """Return all rows, in order."""
    with database.read() as session:
        return session.exec(select(Rejection).order_by(col(Rejection.id))).all()
