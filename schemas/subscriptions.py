"""Subscriptions and deliveries, as our API is asked for them and tells of them."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from schemas import tables
from schemas.api_queries import MAX_POSITION
from schemas.connection_changes import EventType
from schemas.wire_model import WireModel

FAILING_AFTER = timedelta(days=1)
"""A subscription that has taken nothing for so long is shown as failing."""

SubscriptionState = Literal["active", "paused", "disabled"]
DeliveryState = Literal["pending", "delivered", "dead"]
Name = Annotated[str, StringConstraints(pattern=r"^[\w][\w .:@/-]{0,99}$")]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class RequestModel(BaseModel):
    """What a caller wants done: the body of a request. What is in no shape is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NewSubscription(RequestModel):
    """A consumer that events shall be pushed to."""

    name: Name = Field(description="Unique, for people; up to 100 letters, digits and `_ . : @ / -`.")
    url: Url = Field(description="Where events are pushed to: https, and a public address.")
    types: list[EventType] = Field(default=[], description="Which events; none named: all, those to come as well.")
    from_position: int | None = Field(
        default=None,
        ge=0,
        le=MAX_POSITION,
        description="Begin behind this position of the feed; by default with what comes from now on.",
    )


class SubscriptionChange(RequestModel):
    """What shall be otherwise; what is not named stays."""

    state: Literal["active", "paused"] | None = Field(
        default=None, description="`active` also has what failed tried again at once, with all attempts anew."
    )
    url: Url | None = None
    types: list[EventType] | None = None


class Subscription(WireModel):
    """A consumer that events are pushed to. Nothing is dropped while it is paused, disabled or failing."""

    id: str
    name: str
    url: str
    types: list[EventType] = Field(description="Which events it gets; none named: all.")
    state: SubscriptionState = Field(description="`disabled`: its consumer answered 410.")
    failing: bool = Field(description="Whether no push has been taken for a day or longer.")
    failing_since: datetime | None = Field(description="The first failure since the last push that was taken.")
    error: str | None = Field(description="What went wrong last; null when a push was taken since.")
    after_position: int = Field(description="It gets events behind this position of the feed.")
    created_at: datetime
    paused_at: datetime | None
    disabled_at: datetime | None

    @classmethod
    def from_row(cls, row: tables.SubscriptionRow, now: datetime) -> "Subscription":
        """Make the shape from the row."""
        return cls.model_validate(_told(cls, row, now))


class SubscriptionWithSecret(Subscription):
    """A subscription with a secret that was just made: it is shown this once."""

    secret: str = Field(description="`whsec_...`: what its pushes are signed with, after Standard Webhooks.")

    @classmethod
    def with_secret(cls, row: tables.SubscriptionRow, now: datetime, secret: str) -> "SubscriptionWithSecret":
        """Make the shape from the row, and the secret that the row has sealed."""
        return cls.model_validate({**_told(Subscription, row, now), "secret": secret})


class DeliveryAttempt(WireModel):
    """What came of one attempt."""

    at: datetime
    seconds: float = Field(description="How long it took.")
    status: int | None = Field(
        description="The consumer's HTTP status; null where there was no answer, and of a handler."
    )
    error: str | None = Field(description="What went wrong; null where it was taken.")
    response: str | None = Field(
        description="The beginning of the consumer's answer, or what a handler raised, where it was not taken."
    )


class Delivery(WireModel):
    """An event that is or was owed to a subscription. ``dead`` was tried for three days; a redrive tries it again.

    Once, and once more for each replay of it.
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
    replay_id: str | None = Field(description="The replay that it is of; null for one that was owed when it happened.")
    outcomes: list[DeliveryAttempt] = Field(description="What came of each attempt, the latest last.")

    @classmethod
    def from_row(cls, row: tables.DeliveryRow) -> "Delivery":
        """Make the shape from the row."""
        fields = {name: getattr(row, name) for name in cls.model_fields if name != "state"}
        return cls.model_validate({**fields, "state": get_delivery_state(row)})


def get_delivery_state(row: tables.DeliveryRow) -> DeliveryState:
    """Return the state that a delivery's timestamps amount to."""
    if row.delivered_at is not None:
        return "delivered"
    return "dead" if row.dead_at is not None else "pending"


def _told(shape: type[Subscription], row: tables.SubscriptionRow, now: datetime) -> dict[str, Any]:
    fields = {name: getattr(row, name) for name in shape.model_fields if name not in {"state", "failing"}}
    paused: SubscriptionState = "paused" if row.paused_at is not None else "active"
    state = "disabled" if row.disabled_at is not None else paused
    is_failing = row.failing_since is not None and row.failing_since <= now - FAILING_AFTER
    return {**fields, "state": state, "failing": is_failing}
