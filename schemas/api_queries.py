"""Query parameters of the API's lists, with their bounds: filters, pagination cursors, long poll.

Unknown parameters are refused. Each filter is declared once, here: OpenAPI and the options of the command line are
generated from these models.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from schemas.api_resources import RejectionState, WebhookState
from schemas.connection_changes import EventType

MAX_PAGE_SIZE = 1000
MAX_WAIT_SECONDS = 30.0
MAX_TEXT_LENGTH = 3000
"""Characters: longer than any value that the database could index."""

MAX_POSITION = 2**63 - 1

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
# A "+" that was not percent-encoded arrives as a space.
_LOST_PLUS = re.compile(r"(T\S*) (\d{2}:?\d{2})$")


def _check_storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain NUL")
    return text


def _check_iso_time(value: object) -> object:
    if isinstance(value, str):
        if not _DATE.match(value):
            raise ValueError("must be an ISO 8601 time, such as 2026-01-02T03:04:05Z")
        return _LOST_PLUS.sub(r"\1+\2", value)
    return value


def _to_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_LENGTH), AfterValidator(_check_storable)]
Time = Annotated[datetime, BeforeValidator(_check_iso_time), AfterValidator(_to_utc)]
# Six numbers; older cursors have four, from before deliveries and audit entries were in the timeline.
TimelineCursor = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}(-[0-9]{1,18}){3}((-[0-9]{1,18}){2})?$")]
RowCursor = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}$")]

AFTER = "The cursor of the page: `next` of the previous page."
CONNECTION_ID = "Only of this connection."
EVENT_TYPE = "Only events of this type."


class Query(BaseModel):
    """A query without any parameter."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class AsOfQuery(Query):
    """A point in time in the past."""

    at: Time = Field(description="The point in time, ISO 8601; UTC unless it has an offset.")


class PageQuery(Query):
    """The parameters that every list takes."""

    limit: int = Field(default=100, ge=1, le=MAX_PAGE_SIZE, description="The maximum number of items on a page.")


class ConnectionQuery(PageQuery):
    """Filters of the list of connections. All given filters must match exactly."""

    status: Text | None = Field(default=None, description="Only connections with this Meld status, an open string.")
    customer_id: Text | None = Field(default=None, description="Only connections of the customer with this Meld id.")
    external_customer_id: Text | None = Field(
        default=None, description="Only connections of the customer with this id of your own."
    )
    institution_id: Text | None = Field(default=None, description="Only connections to the institution with this id.")
    after: Text | None = Field(default=None, description=AFTER)


class FailureQuery(PageQuery):
    """Parameters of the list of failed reads."""

    after: Text | None = Field(default=None, description=AFTER)


class TimelineQuery(PageQuery):
    """Parameters of a connection's timeline."""

    after: TimelineCursor | None = Field(default=None, description=AFTER)


class EventQuery(PageQuery):
    """Filters of the feed of events, and how long to wait for the first event (long poll)."""

    after: int = Field(
        default=0,
        ge=0,
        le=MAX_POSITION,
        description="Only events after this position of the feed: `next` of the previous page.",
    )
    wait: float = Field(
        default=0,
        ge=0,
        le=MAX_WAIT_SECONDS,
        allow_inf_nan=False,
        description="If there is no event yet, wait up to this many seconds for one (long poll).",
    )
    type: EventType | None = Field(default=None, description=EVENT_TYPE)
    connection_id: Text | None = Field(default=None, description=CONNECTION_ID)


class StreamQuery(Query):
    """Filters of the event stream, and where it begins."""

    after: int | None = Field(
        default=None,
        ge=0,
        le=MAX_POSITION,
        description="Only events after this position of the feed; without it, only events from now on.",
    )
    type: EventType | None = Field(default=None, description=EVENT_TYPE)
    connection_id: Text | None = Field(default=None, description=CONNECTION_ID)


class SubscriptionQuery(PageQuery):
    """Parameters of the list of subscriptions."""

    after: Text | None = Field(default=None, description=AFTER)


class DeliveryQuery(PageQuery):
    """Filters of the list of deliveries. All given filters must match."""

    subscription_id: Text | None = Field(default=None, description="Only deliveries to the subscription with this id.")
    connection_id: Text | None = Field(default=None, description=CONNECTION_ID)
    event_id: Text | None = Field(default=None, description="Only deliveries of the event with this id.")
    state: Literal["pending", "delivered", "dead"] | None = Field(
        default=None, description="Only deliveries in this state; `dead` ones failed for three days."
    )
    after: RowCursor | None = Field(default=None, description=AFTER)


class ReplayQuery(PageQuery):
    """Parameters of the list of replays."""

    after: Text | None = Field(default=None, description=AFTER)


class WebhookQuery(PageQuery):
    """Filters of the list of stored webhooks. All given filters must match."""

    state: WebhookState | None = Field(default=None, description="Only webhooks in this state.")
    type: Text | None = Field(default=None, description="Only webhooks with this Meld `eventType`, an open string.")
    connection_id: Text | None = Field(default=None, description=CONNECTION_ID)
    since: Time | None = Field(
        default=None, description="Only webhooks first received at this time or later; UTC unless it has an offset."
    )
    until: Time | None = Field(
        default=None, description="Only webhooks first received before this time; UTC unless it has an offset."
    )
    after: RowCursor | None = Field(default=None, description=AFTER)


class RejectionQuery(PageQuery):
    """Filters of the list of refused webhooks. All given filters must match."""

    reason: Text | None = Field(default=None, description="Only webhooks refused for this reason, such as `wrong`.")
    state: RejectionState | None = Field(
        default=None, description="Only webhooks in this state; `admitted` ones passed a later verification."
    )
    since: Time | None = Field(
        default=None, description="Only webhooks last received at this time or later; UTC unless it has an offset."
    )
    until: Time | None = Field(
        default=None, description="Only webhooks last received before this time; UTC unless it has an offset."
    )
    after: RowCursor | None = Field(default=None, description=AFTER)


class AuditQuery(PageQuery):
    """Filters of the audit log. All given filters must match."""

    act: Text | None = Field(
        default=None, description="Only this operator action, a noun and a verb such as `subscription.rotated`."
    )
    who: Text | None = Field(default=None, description="Only actions of this token or user.")
    connection_id: Text | None = Field(default=None, description="Only actions on this connection.")
    since: Time | None = Field(
        default=None, description="Only actions at this time or later; UTC unless it has an offset."
    )
    until: Time | None = Field(default=None, description="Only actions before this time; UTC unless it has an offset.")
    after: RowCursor | None = Field(default=None, description=AFTER)
