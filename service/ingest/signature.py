"""Verify: is this request Meld's? Pure: bytes and values in, a value out.

Meld signs ``<timestamp header>.<URL as configured>.<raw body>`` with HMAC-SHA256 and sends it as padded base64url
(docs.meld.io/docs/webhook-authentication). The URL is never taken from the request: behind a proxy it is another one,
and its host is the sender's to choose.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

SIGNATURE = b"meld-signature"
TIMESTAMP = b"meld-signature-timestamp"

_UNIX_SECONDS = re.compile(r"\d{9,11}(?:\.\d{1,9})?", re.ASCII)
_UNIX_MILLISECONDS = re.compile(r"\d{13}", re.ASCII)

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class TimestampWindow:
    """How far a signature's time may lie from the present.

    Meld retries for three days and may keep the first attempt's time on a retry, so an old time is no attack: repeats
    are known by their event id, and a webhook is only a hint.
    """

    max_age: timedelta
    max_skew: timedelta


@dataclass(frozen=True, slots=True)
class Verified:
    """The signature held. ``url`` is the configured URL that it covers, ``signed_at`` the time that it covers."""

    url: str
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class Refusal:
    """The signature did not hold. ``reason`` is for metrics and logs; the sender is told nothing of it."""

    reason: str


class SignatureVerifier:
    """Checks requests against every configured URL with every secret.

    Args:
        urls: The webhook URLs exactly as configured in the Meld profile.
        secrets: The profiles' secrets.
        window: The accepted times.

    Raises:
        ValueError: Without a URL or a secret: nothing could be verified, so nothing may pass.
    """

    def __init__(self, *, urls: Sequence[str], secrets: Sequence[str], window: TimestampWindow) -> None:
        if not urls or not secrets:
            raise ValueError("verification needs at least one URL and one secret")
        self._keys = [(url, url.encode(), secret.encode()) for url in urls for secret in secrets]
        self._window = window

    def verify(self, headers: Headers, body: bytes, now: datetime) -> Verified | Refusal:
        """Check one request. All pairs are tried, in the same time whichever of them holds.

        Args:
            headers: Header lines, names in lower case.
            body: The raw body.
            now: The present.
        """
        signature, timestamp = _only(headers, SIGNATURE), _only(headers, TIMESTAMP)
        if signature is None or timestamp is None:
            return Refusal("missing")
        signed_at = signature_time(timestamp)
        if signed_at is None:
            return Refusal("unreadable_time")
        holding: str | None = None
        for url, url_bytes, secret in self._keys:
            message = b"".join((timestamp, b".", url_bytes, b".", body))
            expected = urlsafe_b64encode(hmac.digest(secret, message, hashlib.sha256))
            is_padded = hmac.compare_digest(expected, signature)
            is_bare = hmac.compare_digest(expected.rstrip(b"="), signature)
            if (is_padded or is_bare) and holding is None:
                holding = url
        if holding is None:
            return Refusal("wrong")
        if signed_at < now - self._window.max_age:
            return Refusal("too_old")
        if signed_at > now + self._window.max_skew:
            return Refusal("in_the_future")
        return Verified(holding, signed_at)


def signature_time(value: bytes) -> datetime | None:
    """Return the time in a ``Meld-Signature-Timestamp``: ISO 8601 or Unix seconds; None where it is neither."""
    try:
        text = value.decode("ascii")
        if _UNIX_SECONDS.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        if _UNIX_MILLISECONDS.fullmatch(text):
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _only(headers: Headers, name: bytes) -> bytes | None:
    """Return the header's value; None where it is missing, or sent twice, which Meld never does."""
    values = [value for header, value in headers if header == name]
    return values[0] if len(values) == 1 else None
