"""The timeline of a connection: what is known to have happened to it, in order."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.api_resources import AuditEntry, Webhook
from schemas.events import Event
from schemas.message_names import Trigger
from schemas.subscriptions import Delivery
from schemas.wire_model import WireModel


class FieldChange(WireModel):
    """A field that a read found otherwise."""

    field: str = Field(description="As in `GET /api/connections/{id}`; inside `service_provider_details` with a dot.")
    before: Any
    after: Any


class Read(WireModel):
    """A read of Meld that saw something new. One that saw nothing new only moves the connection's `checked_at`."""

    observation_id: int
    trigger: Trigger
    webhook_event_ids: list[str]
    replay_id: str | None = Field(description="The replay that asked for it, where the trigger is one.")
    began_at: datetime
    ended_at: datetime
    found: bool = Field(description="False where Meld had the connection no more.")
    changes: list[FieldChange] = Field(description="What it found otherwise than the read before.")
    unshown_changes: list[str] = Field(
        description="Fields of Meld's answer, by Meld's names, that changed too, and that the API does not show."
    )


class WebhookItem(WireModel):
    """A webhook came."""

    kind: Literal["webhook"] = "webhook"
    at: datetime = Field(description="When it was received.")
    webhook: Webhook


class ReadItem(WireModel):
    """Meld was read."""

    kind: Literal["read"] = "read"
    at: datetime = Field(description="When the answer was there.")
    read: Read


class EventItem(WireModel):
    """An event was emitted."""

    kind: Literal["event"] = "event"
    at: datetime = Field(description="When the read had its answer that the event follows from.")
    event: Event


class DeliveryItem(WireModel):
    """An event was owed to a subscription."""

    kind: Literal["delivery"] = "delivery"
    at: datetime = Field(description="When it was owed; when it was tried, and what came of it, the outcomes say.")
    delivery: Delivery


class AuditItem(WireModel):
    """An operator did something to the connection."""

    kind: Literal["act"] = "act"
    at: datetime
    act: AuditEntry


TimelineItem = Annotated[WebhookItem | ReadItem | EventItem | DeliveryItem | AuditItem, Field(discriminator="kind")]


class Timeline(WireModel):
    """One page of what happened to a connection, in the order of time."""

    connection_id: str
    timeline: list[TimelineItem]
    next: str | None = Field(description="`after` of the next page; null on the last.")
