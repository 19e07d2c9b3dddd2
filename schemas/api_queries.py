"""What may be asked of the API: the query of each list, with its bounds. What is in no shape is refused."""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from schemas.api_resources import RejectionState, WebhookState
from schemas.connection_changes import EventType

LARGEST_PAGE = 1000
LONGEST_WAIT = 30.0
LONGEST_TEXT = 3000
"""Characters: longer than any value that the database could index."""

LARGEST_POSITION = 2**63 - 1

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
# A "+" that was not escaped arrives as a space.
_LOST_PLUS = re.compile(r"(T\S*) (\d{2}:?\d{2})$")


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain NUL")
    return text


def _iso(value: object) -> object:
    if isinstance(value, str):
        if not _DATE.match(value):
            raise ValueError("must be an ISO 8601 time, such as 2026-01-02T03:04:05Z")
        return _LOST_PLUS.sub(r"\1+\2", value)
    return value


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("is too far away") from None


Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT), AfterValidator(_storable)]
Time = Annotated[datetime, BeforeValidator(_iso), AfterValidator(_utc)]
# Of six numbers; of four as long as deliveries and acts were not in a timeline.
TimelineCursor = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}(-[0-9]{1,18}){3}((-[0-9]{1,18}){2})?$")]
RowCursor = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}$")]


class Query(BaseModel):
    """A query without any parameter."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Moment(Query):
    """A time in the past."""

    at: Time


class Paged(Query):
    """What every list takes."""

    limit: int = Field(default=100, ge=1, le=LARGEST_PAGE, description="The most items of one page.")


class ConnectionQuery(Paged):
    """Which connections; all filters must match, exactly."""

    status: Text | None = Field(default=None, description="Meld's status, an open string.")
    customer_id: Text | None = None
    external_customer_id: Text | None = None
    institution_id: Text | None = None
    after: Text | None = Field(default=None, description="`next` of the page before.")


class FailureQuery(Paged):
    """Which failures."""

    after: Text | None = Field(default=None, description="`next` of the page before.")


class TimelineQuery(Paged):
    """Which part of a connection's timeline."""

    after: TimelineCursor | None = Field(default=None, description="`next` of the page before.")


class EventQuery(Paged):
    """Which events of the feed, and how long to wait for the first of them."""

    after: int = Field(
        default=0, ge=0, le=LARGEST_POSITION, description="Only events behind this position: `next` of the page before."
    )
    wait: float = Field(
        default=0,
        ge=0,
        le=LONGEST_WAIT,
        allow_inf_nan=False,
        description="Seconds to wait for an event where there is none yet.",
    )
    type: EventType | None = None
    connection_id: Text | None = None


class StreamQuery(Query):
    """Which events of the feed are streamed, and from where on."""

    after: int | None = Field(
        default=None,
        ge=0,
        le=LARGEST_POSITION,
        description="Only events behind this position; without one, those that come from now on.",
    )
    type: EventType | None = None
    connection_id: Text | None = None


class SubscriptionQuery(Paged):
    """Which subscriptions."""

    after: Text | None = Field(default=None, description="`next` of the page before.")


class DeliveryQuery(Paged):
    """Which deliveries; all filters must match."""

    subscription_id: Text | None = None
    connection_id: Text | None = None
    event_id: Text | None = None
    state: Literal["pending", "delivered", "dead"] | None = None
    after: RowCursor | None = Field(default=None, description="`next` of the page before.")


class ReplayQuery(Paged):
    """Which replays."""

    after: Text | None = Field(default=None, description="`next` of the page before.")


class WebhookQuery(Paged):
    """Which stored webhooks; all filters must match."""

    state: WebhookState | None = None
    type: Text | None = Field(default=None, description="Meld's eventType, an open string.")
    connection_id: Text | None = None
    since: Time | None = Field(default=None, description="Received then or later; UTC unless it says otherwise.")
    until: Time | None = Field(default=None, description="Received before; UTC unless it says otherwise.")
    after: RowCursor | None = Field(default=None, description="`next` of the page before.")


class RejectionQuery(Paged):
    """Which refused webhooks; all filters must match."""

    reason: Text | None = Field(default=None, description="Such as `wrong`.")
    state: RejectionState | None = None
    since: Time | None = Field(default=None, description="Last received then or later; UTC unless it says otherwise.")
    until: Time | None = Field(default=None, description="Last received before; UTC unless it says otherwise.")
    after: RowCursor | None = Field(default=None, description="`next` of the page before.")


class AuditQuery(Paged):
    """Which acts of operators; all filters must match."""

    act: Text | None = Field(default=None, description="Such as `subscription.rotated`.")
    who: Text | None = None
    connection_id: Text | None = None
    since: Time | None = Field(default=None, description="Done then or later; UTC unless it says otherwise.")
    until: Time | None = Field(default=None, description="Done before; UTC unless it says otherwise.")
    after: RowCursor | None = Field(default=None, description="`next` of the page before.")
