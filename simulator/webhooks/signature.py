"""Meld's webhook signature: base64url, with padding, of HMAC-SHA256 over "<time>.<URL>.<raw body>"."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import TYPE_CHECKING

from simulator.ids import iso

if TYPE_CHECKING:
    from datetime import datetime

SIGNATURE = "Meld-Signature"
SIGNED_AT = "Meld-Signature-Timestamp"


def signature(*, secret: str, url: str, signed_at: str, body: bytes) -> str:
    """The value of Meld-Signature for a body sent to a URL, exactly as that URL is configured."""
    message = f"{signed_at}.{url}.".encode() + body
    return urlsafe_b64encode(hmac.digest(secret.encode(), message, sha256)).decode()


def stamp(moment: datetime, *, unix: bool = False) -> str:
    """The value of Meld-Signature-Timestamp; the sources disagree whether it is ISO 8601 or Unix seconds."""
    return str(int(moment.timestamp())) if unix else iso(moment)


def headers(*, secret: str, url: str, signed_at: str, body: bytes) -> dict[str, str]:
    """The two headers that prove a webhook."""
    return {SIGNED_AT: signed_at, SIGNATURE: signature(secret=secret, url=url, signed_at=signed_at, body=body)}
