"""Models of a connection's timeline: webhooks, reads, events, deliveries and audit entries, ordered by time."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.api_resources import AuditEntry, Webhook
from schemas.events import Event
from schemas.message_names import Trigger
from schemas.subscriptions import Delivery
from schemas.wire_model import WireModel


class FieldChange(WireModel):
    """A field that a read found changed."""

    field: str = Field(
        description="The name as in `GET /api/connections/{id}`; fields in `service_provider_details` with a dot."
    )
    before: Any
    after: Any


class Read(WireModel):
    """A read of Meld that found a change. A read without a change only updates the connection's `checked_at`."""

    observation_id: int
    trigger: Trigger
    webhook_event_ids: list[str]
    replay_id: str | None = Field(description="The replay that requested the read, if the trigger is a replay.")
    began_at: datetime
    ended_at: datetime
    found: bool = Field(description="False if Meld no longer had the connection.")
    changes: list[FieldChange] = Field(description="The differences from the previous read.")
    unshown_changes: list[str] = Field(
        description="Meld's names of further changed fields that the API does not expose."
    )


class WebhookItem(WireModel):
    """A webhook was received."""

    kind: Literal["webhook"] = "webhook"
    at: datetime = Field(description="When it was received.")
    webhook: Webhook


class ReadItem(WireModel):
    """Meld was read."""

    kind: Literal["read"] = "read"
    at: datetime = Field(description="When the response was complete.")
    read: Read


class EventItem(WireModel):
    """An event was emitted."""

    kind: Literal["event"] = "event"
    at: datetime = Field(description="When the response that the event was derived from was complete.")
    event: Event


class DeliveryItem(WireModel):
    """A delivery of an event to a subscription was created."""

    kind: Literal["delivery"] = "delivery"
    at: datetime = Field(description="When the delivery was created; its `outcomes` have the attempts.")
    delivery: Delivery


class AuditItem(WireModel):
    """An operator acted on the connection."""

    kind: Literal["act"] = "act"
    at: datetime
    act: AuditEntry


TimelineItem = Annotated[WebhookItem | ReadItem | EventItem | DeliveryItem | AuditItem, Field(discriminator="kind")]


class Timeline(WireModel):
    """A page of a connection's timeline, ordered by time."""

    connection_id: str
    timeline: list[TimelineItem]
    next: str | None = Field(description="The cursor of the next page, for `after`; null on the last page.")
