"""API models of subscriptions and deliveries: request bodies, resources, and their states."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from schemas import tables
from schemas.api_queries import MAX_POSITION
from schemas.connection_changes import EventType
from schemas.wire_model import WireModel

FAILING_AFTER = timedelta(days=1)
"""A subscription that acknowledged no push for this time is shown as failing."""

SubscriptionState = Literal["active", "paused", "disabled"]
DeliveryState = Literal["pending", "delivered", "dead"]
Name = Annotated[str, StringConstraints(pattern=r"^[\w][\w .:@/-]{0,99}$")]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class RequestModel(BaseModel):
    """Base class of request bodies. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class NewSubscription(RequestModel):
    """A new subscription: a consumer that events are pushed to."""

    name: Name = Field(description="A unique name for people: up to 100 letters, digits, spaces and `_ . : @ / -`.")
    url: Url = Field(description="The URL that events are pushed to: https, with a public address.")
    types: list[EventType] = Field(
        default=[], description="The event types to push; an empty list means all, including future types."
    )
    from_position: int | None = Field(
        default=None,
        ge=0,
        le=MAX_POSITION,
        description="Push the events after this position of the feed; by default, only events from now on.",
    )


class SubscriptionChange(RequestModel):
    """A change of a subscription. Missing fields stay unchanged."""

    state: Literal["active", "paused"] | None = Field(
        default=None, description="`active` also retries failed deliveries at once, with all attempts."
    )
    url: Url | None = Field(default=None, description="The new URL.")
    types: list[EventType] | None = Field(default=None, description="The new event types; an empty list means all.")


class Subscription(WireModel):
    """A consumer that events are pushed to. No event is dropped while it is paused, disabled or failing."""

    id: str
    name: str
    url: str
    types: list[EventType] = Field(description="The event types that are pushed; an empty list means all.")
    state: SubscriptionState = Field(description="`disabled`: the consumer answered 410.")
    failing: bool = Field(description="Whether no push was acknowledged for a day or longer.")
    failing_since: datetime | None = Field(description="The first failure since the last acknowledged push.")
    error: str | None = Field(description="The last error; null after an acknowledged push.")
    after_position: int = Field(description="Events after this position of the feed are pushed.")
    created_at: datetime
    paused_at: datetime | None
    disabled_at: datetime | None

    @classmethod
    def from_row(cls, row: tables.SubscriptionRow, now: datetime) -> "Subscription":
        """Create the model from its row."""
        return cls.model_validate(_subscription_fields(cls, row, now))


class SubscriptionWithSecret(Subscription):
    """A subscription with its new secret, which is shown only this once."""

    secret: str = Field(description="`whsec_...`: the secret that signs its pushes, by Standard Webhooks.")

    @classmethod
    def with_secret(cls, row: tables.SubscriptionRow, now: datetime, secret: str) -> "SubscriptionWithSecret":
        """Create the model from its row and the secret, which the row has encrypted."""
        return cls.model_validate({**_subscription_fields(Subscription, row, now), "secret": secret})


class DeliveryAttempt(WireModel):
    """The result of one attempt to push."""

    at: datetime
    seconds: float = Field(description="The duration of the attempt.")
    status: int | None = Field(description="The consumer's HTTP status; null without a response, and for a handler.")
    error: str | None = Field(description="The error; null if the push was acknowledged.")
    response: str | None = Field(
        description="The beginning of the consumer's response, or of the handler's error, if the attempt failed."
    )


class Delivery(WireModel):
    """The delivery of an event to a subscription. ``dead`` failed for three days; a redrive makes it pending again.

    There is one for each event and subscription, and one more for each replay of the event.
    """

    id: int
    subscription_id: str
    event_id: str
    type: str
    connection_id: str
    position: int
    state: DeliveryState
    created_at: datetime
    attempts: int
    delivered_at: datetime | None
    dead_at: datetime | None
    error: str | None
    replay_id: str | None = Field(description="The replay that created it; null for the original delivery.")
    outcomes: list[DeliveryAttempt] = Field(description="The results of the attempts, the latest last.")

    @classmethod
    def from_row(cls, row: tables.DeliveryRow) -> "Delivery":
        """Create the model from its row."""
        fields = {name: getattr(row, name) for name in cls.model_fields if name != "state"}
        return cls.model_validate({**fields, "state": get_delivery_state(row)})


def get_delivery_state(row: tables.DeliveryRow) -> DeliveryState:
    """Return the state of a delivery, from its timestamps."""
    if row.delivered_at is not None:
        return "delivered"
    return "dead" if row.dead_at is not None else "pending"


def _subscription_fields(model: type[Subscription], row: tables.SubscriptionRow, now: datetime) -> dict[str, Any]:
    fields = {name: getattr(row, name) for name in model.model_fields if name not in {"state", "failing"}}
    paused: SubscriptionState = "paused" if row.paused_at is not None else "active"
    state = "disabled" if row.disabled_at is not None else paused
    is_failing = row.failing_since is not None and row.failing_since <= now - FAILING_AFTER
    return {**fields, "state": state, "failing": is_failing}
