"""Meld's webhook: the received one (verified), the hint in its body, and a refused one."""

from dataclasses import dataclass, field
from datetime import datetime

CONNECTION_DELETED = "BANK_LINKING_CONNECTION_DELETED"
STATUS_CHANGE = "BANK_LINKING_CONNECTION_STATUS_CHANGE"
DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Hint:
    """The content of a webhook's body, as far as it can be parsed. It is only a hint, never the source of a state.

    Attributes:
        event_id: Meld's ``eventId``; None if there is no usable one.
        type: ``eventType``, an open string.
        account_id: The Meld account, the same in all events of a customer of Meld.
        connection_id: ``payload.connectionId``; None means that there is nothing to read.
        status: The announced status of the connection: ``newStatus`` of a STATUS_CHANGE, or DELETED.
        status_reason: The ``newStatusReason``: empty if it is announced as null, None if the field is missing.
        occurred_at: ``timestamp``: when Meld created the event, not when it sent it.
    """

    event_id: str | None = None
    type: str | None = None
    account_id: str | None = None
    connection_id: str | None = None
    status: str | None = None
    status_reason: str | None = None
    occurred_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReceivedWebhook:
    """A webhook whose signature is valid, as it is stored.

    Attributes:
        body: The raw body, byte for byte.
        headers: The signature headers, Meld's retry headers and similar ones, by lower-case name.
        url: The configured URL that the signature covers.
        signed_at: The time that the signature covers.
        hint: The content of the body.
    """

    body: bytes
    headers: dict[str, str]
    url: str
    signed_at: datetime
    hint: Hint = field(default_factory=Hint)


@dataclass(frozen=True, slots=True)
class RefusedWebhook:
    """A refused request to the webhook route, as far as it is kept. Its sender is unknown.

    Attributes:
        reason: The reason, as in the metrics.
        received_at: When it was received.
        headers: The same headers as of a received webhook.
        body: The beginning of the body.
        size: The size of the whole body in bytes; a lower bound if it was not read to its end.
    """

    reason: str
    received_at: datetime
    headers: dict[str, str]
    body: bytes
    size: int
