"""Signature verification of Meld's webhooks: HMAC-SHA256 over timestamp, URL and raw body. Pure, without I/O.

Meld signs ``<timestamp header>.<URL as configured>.<raw body>`` with HMAC-SHA256 and sends it as padded base64url
(docs.meld.io/docs/webhook-authentication). The URL comes from the settings, never from the
request: a proxy changes it, and the sender chooses its host.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

SIGNATURE_HEADER = b"meld-signature"
TIMESTAMP_HEADER = b"meld-signature-timestamp"

_UNIX_SECONDS = re.compile(r"\d{9,11}(?:\.\d{1,9})?", re.ASCII)
_UNIX_MILLISECONDS = re.compile(r"\d{13}", re.ASCII)

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class TimestampWindow:
    """How far a signature's time may be from the present.

    Meld retries for three days and may keep the first attempt's signature time, so an old time is not a replay attack.
    A repeat is recognized by its event id.
    """

    max_age: timedelta
    max_skew: timedelta


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """The signature is valid. ``url`` is the configured URL that it covers, ``signed_at`` the time that it covers."""

    url: str
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class SignatureRefusal:
    """The signature is not valid. ``reason`` is for metrics and logs; the response does not contain it."""

    reason: str


class SignatureVerifier:
    """Verifies requests against every configured URL with every secret.

    Args:
        urls: The webhook URLs exactly as configured in the Meld profile.
        secrets: The profiles' secrets.
        window: The accepted times.

    Raises:
        ValueError: There is no URL or no secret, so that no request could be verified.
    """

    def __init__(self, *, urls: Sequence[str], secrets: Sequence[str], window: TimestampWindow) -> None:
        if not urls or not secrets:
            raise ValueError("verification needs at least one URL and one secret")
        self._keys = [(url, url.encode(), secret.encode()) for url in urls for secret in secrets]
        self._window = window

    def verify(self, headers: Headers, body: bytes, now: datetime) -> VerifiedSignature | SignatureRefusal:
        """Verify one request. It tries every pair of URL and secret, so that the duration reveals nothing.

        Args:
            headers: Header lines, with lower-case names.
            body: The raw body.
            now: The present time.
        """
        signature, timestamp = _single_header(headers, SIGNATURE_HEADER), _single_header(headers, TIMESTAMP_HEADER)
        if signature is None or timestamp is None:
            return SignatureRefusal("missing")
        signed_at = parse_signature_time(timestamp)
        if signed_at is None:
            return SignatureRefusal("unreadable_time")
        matching_url: str | None = None
        for url, url_bytes, secret in self._keys:
            message = b"".join((timestamp, b".", url_bytes, b".", body))
            expected = urlsafe_b64encode(hmac.digest(secret, message, hashlib.sha256))
            is_padded = hmac.compare_digest(expected, signature)
            is_bare = hmac.compare_digest(expected.rstrip(b"="), signature)
            if (is_padded or is_bare) and matching_url is None:
                matching_url = url
        if matching_url is None:
            return SignatureRefusal("wrong")
        if signed_at < now - self._window.max_age:
            return SignatureRefusal("too_old")
        if signed_at > now + self._window.max_skew:
            return SignatureRefusal("in_the_future")
        return VerifiedSignature(matching_url, signed_at)


def parse_signature_time(value: bytes) -> datetime | None:
    """Return the time in a ``Meld-Signature-Timestamp``: ISO 8601, Unix seconds or milliseconds; else None."""
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


def _single_header(headers: Headers, name: bytes) -> bytes | None:
    """Return a header's value; None if it is missing, or sent twice, which Meld never does."""
    values = [value for header, value in headers if header == name]
    return values[0] if len(values) == 1 else None
