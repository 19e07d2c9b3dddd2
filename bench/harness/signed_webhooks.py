"""Webhooks like Meld's with valid signatures, created before the measurement."""

import hmac
import json
import random
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

SECRET = "bench-secret"
ENCRYPTION_KEY = urlsafe_b64encode(b"the bench's key, hiding nothing.").decode()
PATH = "/webhooks/meld"
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_RANDOM = random.Random("meldwatch bench")


def new_id(length: int = 22) -> str:
    """Return an id in Meld's format."""
    return "".join(_RANDOM.choices(ALPHABET, k=length))


def webhook_url(port: int) -> str:
    """Return the webhook URL as it would be configured in the Meld profile."""
    return f"http://127.0.0.1:{port}{PATH}"


@dataclass(frozen=True, slots=True)
class SignedWebhook:
    """A webhook with its headers, ready to send."""

    event_id: str
    headers: dict[str, str]
    body: bytes


def make_webhook(url: str, connection_id: str, *, status: str = "ACTIVE", event_id: str | None = None) -> SignedWebhook:
    """Return a signed STATUS_CHANGE of about 600 bytes, the size of Meld's published samples with all fields."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    event_id = event_id or new_id()
    body = _body(event_id, connection_id, status, now)
    message = f"{now}.{url}.".encode() + body
    signature = urlsafe_b64encode(hmac.digest(SECRET.encode(), message, sha256)).decode()
    headers = {
        "Content-Type": "application/json",
        "Meld-Signature": signature,
        "Meld-Signature-Timestamp": now,
    }
    return SignedWebhook(event_id, headers, body)


def write_requests(path: Path, *, url: str, connection_ids: Sequence[str], count: int) -> int:
    """Write HTTP requests with unique event ids, spread over all connections; return their common length."""
    host = url.split("/")[2]
    lengths = set()
    with path.open("wb") as file:
        for record in _records(url, host, connection_ids, count):
            lengths.add(len(record))
            file.write(record)
    (length,) = lengths
    return length


def _records(url: str, host: str, connection_ids: Sequence[str], count: int) -> Iterable[bytes]:
    for number in range(count):
        signed = make_webhook(url, connection_ids[number * 7919 % len(connection_ids)])
        head = [f"POST {PATH} HTTP/1.1", f"Host: {host}", "User-Agent: Meld", "Accept: */*"]
        head += [f"{name}: {value}" for name, value in signed.headers.items()]
        head += [f"Content-Length: {len(signed.body)}", "", ""]
        yield "\r\n".join(head).encode() + signed.body


def _body(event_id: str, connection_id: str, status: str, now: str) -> bytes:
    envelope = {
        "eventType": "BANK_LINKING_CONNECTION_STATUS_CHANGE",
        "eventId": event_id,
        "timestamp": now,
        "accountId": "QfdzpX3te1cDaviihXA4D5dA6ghnT3",
        "profileId": "W9kBgKB7afMxYoYuy3rJuZ",
        "version": "2023-12-19",
        "payload": {
            "requestId": "91d7fb355e319532b178acc8a7ae1a69",
            "customerId": "Qg56BnxskKokRV8rVo21Af3T4k6QKY",
            "externalCustomerId": "testCustomer1",
            "connectionId": connection_id,
            "institutionId": "Ntj3AwgdridJc2rtfeheku",
            "institutionName": "Chase",
            "oldStatus": "RECONNECT_REQUIRED",
            "oldStatusReason": None,
            "newStatus": status,
            "newStatusReason": None,
            "serviceProviderDetails": {
                "serviceProvider": "PLAID",
                "serviceProviderConnectionId": "NXrZpLwd1eUQQqymvl9nSkkV8DpeLLUWoXdZx",
            },
        },
    }
    return json.dumps(envelope, separators=(",", ":")).encode()
