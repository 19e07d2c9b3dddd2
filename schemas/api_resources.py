"""Resource models of the API (connection, webhook, failure, rejection, audit entry), and how rows become models."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from schemas.message_names import Trigger
from schemas.wire_model import WireModel

if TYPE_CHECKING:
    from schemas import tables  # see schemas/events.py


class Connection(WireModel):
    """A connection in the mirror."""

    id: str
    account_id: str
    customer_id: str | None
    external_customer_id: str | None
    institution_id: str | None
    institution_name: str | None
    status: str = Field(description="Meld's status, an open string.")
    status_reason: str | None = Field(description="Meld's reason for the status, an open string.")
    primary_duplicate_id: str | None = Field(
        description="The member of the duplicate group whose data Meld keeps up to date; null without duplicates."
    )
    duplicate_ids: list[str] = Field(description="The other members of the duplicate group, in Meld's order.")
    products: list[str]
    optional_products: list[str]
    regions: list[str]
    service_provider: str | None
    service_provider_details: dict[str, Any] = Field(
        description="Meld's details of the service provider, without credentials."
    )
    created_at: datetime | None
    aggregated_at: datetime | None
    observed_at: datetime = Field(description="The start of the read that last changed the connection.")
    checked_at: datetime = Field(description="The start of the last read.")
    sequence: int = Field(description="The number of events that the connection has emitted.")

    @classmethod
    def from_row(cls, row: "tables.ConnectionRow") -> "Connection":
        """Create the model from a row of the mirror."""
        return cls.model_validate({name: getattr(row, name) for name in cls.model_fields})


class Failure(WireModel):
    """A connection whose reads failed too often. The next webhook or an operator starts new attempts."""

    connection_id: str
    trigger: Trigger = Field(description="Why the read was requested.")
    failed_at: datetime = Field(description="The time of the last failed read.")
    error: str | None = Field(description="The error of the last failed read.")
    retry_at: datetime | None = Field(description="The time of the next automatic attempt; null if there is none.")

    @classmethod
    def from_row(cls, row: "tables.ReadRequestRow") -> "Failure":
        """Create the model from the row of the read request."""
        same = {name: getattr(row, name) for name in ("connection_id", "trigger", "failed_at", "error")}
        return cls.model_validate({**same, "retry_at": row.due_at})


class AuditEntry(WireModel):
    """An operator action in the audit log."""

    id: int
    at: datetime
    who: str = Field(description="The name of the API token; for a command, `cli:` and the name of the user.")
    act: str = Field(description="The action, a noun and a verb, such as `subscription.rotated`.")
    subject: str | None = Field(description="The id of the object of the action.")
    connection_id: str | None
    details: dict[str, Any]

    @classmethod
    def from_row(cls, row: "tables.AuditRow") -> "AuditEntry":
        """Create the model from its row."""
        return cls.model_validate(row.model_dump())


RejectionState = Literal["refused", "admitted"]


class Rejection(WireModel):
    """A refused webhook, without its body and its signature."""

    id: int
    reason: str = Field(description="The reason of the refusal, as in the metric `meldwatch_webhooks_total`.")
    state: RejectionState = Field(description="`admitted`: a later verification was successful.")
    event_id: str | None = Field(description="The `eventId` in the body, if it can be parsed. It is not authenticated.")
    type: str | None = Field(description="The `eventType` in the body. It is not authenticated.")
    likely: bool = Field(description="Whether it has the form of Meld's webhooks: with signature, time and event id.")
    size: int = Field(description="The size of the body in bytes.")
    whole: bool = Field(description="Whether the whole body is kept, so that it can be verified again.")
    times: int = Field(description="How often it was received.")
    first_at: datetime
    received_at: datetime = Field(description="When it was last received.")
    off_seconds: float | None = Field(
        description="The age of the signature at that moment; negative for the future, null if it cannot be parsed."
    )
    headers: dict[str, str] = Field(description="The headers that are kept, without the signature.")
    admitted_at: datetime | None


WebhookState = Literal["pending", "processed", "ignored", "failed"]


class Webhook(WireModel):
    """A stored webhook. ``pending`` waits for a read, ``ignored`` names no connection, ``failed`` may be retried."""

    event_id: str = Field(description="Meld's `eventId`; `sha256:<hex of the body>` if there is no usable one.")
    type: str | None
    connection_id: str | None
    account_id: str | None
    state: WebhookState
    occurred_at: datetime | None = Field(description="When the event happened, by Meld's `timestamp`.")
    signed_at: datetime
    received_at: datetime
    deliveries: int = Field(description="How often it was received.")
    delivered_at: datetime = Field(description="When it was last received.")
    processed_at: datetime | None
    ignored_at: datetime | None
    failed_at: datetime | None
    error: str | None

    @classmethod
    def from_row(cls, row: "tables.WebhookRow") -> "Webhook":
        """Create the model from a row of the inbox."""
        fields = {name: getattr(row, name) for name in cls.model_fields if name != "state"}
        return cls.model_validate({**fields, "state": get_webhook_state(row)})


def get_webhook_state(row: "tables.WebhookRow") -> WebhookState:
    """Return the state of a webhook, from its timestamps."""
    if row.processed_at is not None:
        return "processed"
    if row.ignored_at is not None:
        return "ignored"
    return "failed" if row.failed_at is not None else "pending"
