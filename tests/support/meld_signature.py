"""Independent implementation of Meld's HMAC signature, for tests of its verification."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

URL = "https://example.meld.io/webhooks"
SECRET = "42m4NMLS34WQ6BbMfo1KFKqMv4hy"
TIMESTAMP = b"2022-05-26T20:25:17.682818Z"
SIGNED_AT = datetime(2022, 5, 26, 20, 25, 17, 682818, tzinfo=UTC)


def digest(body: bytes, *, timestamp: bytes = TIMESTAMP, url: str = URL, secret: str = SECRET) -> bytes:
    """Return the HMAC of the signed content."""
    return hmac.new(secret.encode(), timestamp + b"." + url.encode() + b"." + body, hashlib.sha256).digest()


def sign(body: bytes, *, timestamp: bytes = TIMESTAMP, url: str = URL, secret: str = SECRET) -> bytes:
    """Return the ``Meld-Signature`` of a body."""
    return base64.urlsafe_b64encode(digest(body, timestamp=timestamp, url=url, secret=secret))


def headers(signature: bytes, timestamp: bytes = TIMESTAMP) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request, in the form of ASGI."""
    return [
        (b"host", b"example.meld.io"),
        (b"content-type", b"application/json"),
        (b"meld-signature", signature),
        (b"meld-signature-timestamp", timestamp),
    ]
