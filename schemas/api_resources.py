"""What our own API says: the shapes of ``contract`` section 4, and what makes them from rows."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from schemas.message_names import Trigger
from schemas.wire_model import WireModel

if TYPE_CHECKING:
    from schemas import tables  # see events.py


class Connection(WireModel):
    """A connection as the mirror has it."""

    id: str
    account_id: str
    customer_id: str | None
    external_customer_id: str | None
    institution_id: str | None
    institution_name: str | None
    status: str = Field(description="Meld's status; an open string.")
    status_reason: str | None = Field(description="Meld's reason; an open string.")
    primary_duplicate_id: str | None = Field(
        description="The member of the duplicate group that Meld keeps up to date; null without duplicates."
    )
    duplicate_ids: list[str] = Field(description="The other members of the group, in Meld's order.")
    products: list[str]
    optional_products: list[str]
    regions: list[str]
    service_provider: str | None
    service_provider_details: dict[str, Any] = Field(description="As Meld gave them, without credentials.")
    created_at: datetime | None
    aggregated_at: datetime | None
    observed_at: datetime = Field(description="When the read that last changed it began.")
    checked_at: datetime = Field(description="When the last read began.")
    sequence: int = Field(description="How many events it has emitted.")

    @classmethod
    def from_row(cls, row: "tables.ConnectionRow") -> "Connection":
        """Make the shape from the mirror's row."""
        return cls.model_validate({name: getattr(row, name) for name in cls.model_fields})


class Failure(WireModel):
    """A connection whose reads failed too often; the next webhook, or an operator, starts anew."""

    connection_id: str
    trigger: Trigger = Field(description="Why its read is owed.")
    failed_at: datetime = Field(description="When the last read failed.")
    error: str | None = Field(description="What went wrong with it.")
    retry_at: datetime | None = Field(description="When it is tried on by itself; null for never.")

    @classmethod
    def from_row(cls, row: "tables.ReadRequestRow") -> "Failure":
        """Make the shape from the job's row."""
        same = {name: getattr(row, name) for name in ("connection_id", "trigger", "failed_at", "error")}
        return cls.model_validate({**same, "retry_at": row.due_at})


class AuditEntry(WireModel):
    """What an operator did."""

    id: int
    at: datetime
    who: str = Field(description="The name of a token; `cli:` and the name of a user, where a command did it.")
    act: str = Field(description="A noun and a verb, as `subscription.rotated`.")
    subject: str | None = Field(description="To what, by its id.")
    connection_id: str | None
    details: dict[str, Any]

    @classmethod
    def from_row(cls, row: "tables.AuditRow") -> "AuditEntry":
        """Make the shape from the row."""
        return cls.model_validate(row.model_dump())


RejectionState = Literal["refused", "admitted"]


class Rejection(WireModel):
    """A refused webhook, without its body and its signature."""

    id: int
    reason: str = Field(description="As in the metric `meldwatch_webhooks_total`.")
    state: RejectionState = Field(description="`admitted`: tried again later, it passed.")
    event_id: str | None = Field(description="The eventId of its body, as far as it can be read. Anybody may claim it.")
    type: str | None = Field(description="The eventType of its body.")
    likely: bool = Field(description="Whether it looks like Meld's: signature, time and event id are there.")
    size: int = Field(description="Bytes of the body.")
    whole: bool = Field(description="Whether all of the body is kept, so that it can be tried again.")
    times: int = Field(description="How often it came.")
    first_at: datetime
    received_at: datetime = Field(description="When it came last.")
    off_seconds: float | None = Field(
        description="How old its signature's time was then; below 0 in the future, null where none could be read."
    )
    headers: dict[str, str] = Field(description="Those that are kept, but for the signature.")
    admitted_at: datetime | None


WebhookState = Literal["pending", "processed", "ignored", "failed"]


class Webhook(WireModel):
    """A stored webhook. ``pending`` waits for a read, ``ignored`` names no connection, ``failed`` may yet be read."""

    event_id: str = Field(description="Meld's eventId; `sha256:<hex of the body>` where there is no usable one.")
    type: str | None
    connection_id: str | None
    account_id: str | None
    state: WebhookState
    occurred_at: datetime | None = Field(description="When Meld says that it happened.")
    signed_at: datetime
    received_at: datetime
    deliveries: int = Field(description="How often it came.")
    delivered_at: datetime = Field(description="When it last came.")
    processed_at: datetime | None
    ignored_at: datetime | None
    failed_at: datetime | None
    error: str | None

    @classmethod
    def from_row(cls, row: "tables.WebhookRow") -> "Webhook":
        """Make the shape from the inbox's row."""
        fields = {name: getattr(row, name) for name in cls.model_fields if name != "state"}
        return cls.model_validate({**fields, "state": get_webhook_state(row)})


def get_webhook_state(row: "tables.WebhookRow") -> WebhookState:
    """Return the state that a webhook's timestamps amount to."""
    if row.processed_at is not None:
        return "processed"
    if row.ignored_at is not None:
        return "ignored"
    return "failed" if row.failed_at is not None else "pending"
