"""A webhook of Meld's, in its stages: ``ReceivedWebhook`` (verified, with what it hints at), ``Hint`` (what it says).

And ``RefusedWebhook``: what came in its place.
"""

from dataclasses import dataclass, field
from datetime import datetime

CONNECTION_DELETED = "BANK_LINKING_CONNECTION_DELETED"
STATUS_CHANGE = "BANK_LINKING_CONNECTION_STATUS_CHANGE"
DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Hint:
    """What a webhook's body says, as far as it can be read. Nothing in it is taken as state.

    Attributes:
        event_id: Meld's ``eventId``; None where there is no usable one.
        type: ``eventType``, an open string.
        account_id: The Meld account, the same for every event of a customer of Meld's.
        connection_id: ``payload.connectionId``; None means that there is nothing to read again.
        status: The status that the connection should have now: ``newStatus`` of a STATUS_CHANGE, or DELETED.
        status_reason: Its ``newStatusReason``: empty where it says that there is none, None where it says nothing.
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
    """A request of Meld's whose signature held: what is stored, byte for byte.

    Attributes:
        body: The raw body, as signed.
        headers: Evidence: the signature headers, Meld's retry headers and the like, by lower-case name.
        url: The configured URL that the signature covers.
        signed_at: The time that the signature covers.
        hint: What the body says.
    """

    body: bytes
    headers: dict[str, str]
    url: str
    signed_at: datetime
    hint: Hint = field(default_factory=Hint)


MAX_REJECTED_BODY_BYTES = 64 * 1024
"""How much of the body of a refused request is kept; a longer one cannot be verified again."""


@dataclass(frozen=True, slots=True)
class RefusedWebhook:
    """A request to the webhook route that was refused, as far as it is kept. Nobody knows who sent it.

    Attributes:
        reason: Why, as in the metrics.
        received_at: When it was.
        headers: As those of a delivery.
        body: The beginning of its body.
        size: How many bytes the whole body had; at least, where it was not read to its end.
    """

    reason: str
    received_at: datetime
    headers: dict[str, str]
    body: bytes
    size: int
