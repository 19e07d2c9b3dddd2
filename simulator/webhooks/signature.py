"""Meld's webhook signature: HMAC-SHA256 over "<timestamp>.<URL>.<raw body>", as padded base64url."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import TYPE_CHECKING

from simulator.ids import format_time

if TYPE_CHECKING:
    from datetime import datetime

SIGNATURE_HEADER = "Meld-Signature"
TIMESTAMP_HEADER = "Meld-Signature-Timestamp"


def sign(*, secret: str, url: str, signed_at: str, body: bytes) -> str:
    """Return the value of Meld-Signature; the URL must be exactly as configured at Meld."""
    message = f"{signed_at}.{url}.".encode() + body
    return urlsafe_b64encode(hmac.digest(secret.encode(), message, sha256)).decode()


def format_timestamp(moment: datetime, *, unix: bool = False) -> str:
    """Return the value of Meld-Signature-Timestamp: ISO 8601, or Unix seconds, since Meld's documents disagree."""
    return str(int(moment.timestamp())) if unix else format_time(moment)


def signature_headers(*, secret: str, url: str, signed_at: str, body: bytes) -> dict[str, str]:
    """Return the two headers that authenticate a webhook."""
    return {TIMESTAMP_HEADER: signed_at, SIGNATURE_HEADER: sign(secret=secret, url=url, signed_at=signed_at, body=body)}
