"""Response models of the API: pages of lists, receipts, health and readiness, problem details (RFC 9457)."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from schemas.api_resources import AuditEntry, Connection, Failure, Rejection, Webhook
from schemas.events import Event
from schemas.replays import Replay
from schemas.subscriptions import Delivery, Subscription
from schemas.wire_model import WireModel

Cursor = str | None


class ConnectionPage(WireModel):
    """A page of connections, ordered by id."""

    connections: list[Connection]
    next: Cursor = Field(description="The cursor of the next page, for `after`; null on the last page.")


class FailurePage(WireModel):
    """A page of failed reads, ordered by connection id."""

    failures: list[Failure]
    next: Cursor = Field(description="The cursor of the next page, for `after`; null on the last page.")


class DuplicateGroupMember(WireModel):
    """A member of a duplicate group, and its own view of the group; all fields are null if it was never read."""

    id: str
    status: str | None = None
    primary_duplicate_id: str | None = None
    duplicate_ids: list[str] | None = None
    grouped_at: datetime | None = Field(
        default=None, description="The start of the read that last changed its view of the group."
    )
    checked_at: datetime | None = None


class DuplicateGroup(WireModel):
    """A duplicate group, from the stored connections of all its members."""

    connection_id: str
    converged: bool = Field(description="Whether all living members agree on the primary and the members.")
    since: datetime | None = Field(description="The start of the read that last changed the view of any member.")
    members: list[DuplicateGroupMember]


class EventPage(WireModel):
    """A page of the feed of events, ordered by position."""

    events: list[Event]
    next: int = Field(
        description="The cursor of the next page, for `after`: the position of the last event, or `after` itself on an"
        " empty page."
    )


class WebhookPage(WireModel):
    """A page of stored webhooks, in the order in which they were stored."""

    webhooks: list[Webhook]
    next: Cursor = Field(description="The cursor of the next page, for `after`; null on the last page.")


class RejectionPage(WireModel):
    """A page of refused webhooks that were kept, in the order in which they were first received."""

    rejections: list[Rejection]
    next: Cursor = Field(description="The cursor of the next page, for `after`; null on the last page.")


class SubscriptionPage(WireModel):
    """A page of subscriptions, ordered by name."""

    subscriptions: list[Subscription]
    next: Cursor = Field(description="The cursor of the next page, for `after`; null on the last page.")


class DeliveryPage(WireModel):
    """A page of deliveries, in the order in which they were created."""

    deliveries: list[Delivery]
    next: Cursor = Field(description="The cursor of the next page, for `after`; null on the last page.")


class AuditPage(WireModel):
    """A page of audit entries, newest first."""

    acts: list[AuditEntry]
    next: Cursor = Field(description="The cursor of the next page, for `after`; null on the last page.")


class ReplayPage(WireModel):
    """A page of replays, in the order in which they were created."""

    replays: list[Replay]
    next: Cursor = Field(description="The cursor of the next page, for `after`; null on the last page.")


class RedriveReceipt(WireModel):
    """Dead deliveries are pending again."""

    subscription_id: str
    redriven: int = Field(description="The number of these deliveries.")


class RefreshReceipt(WireModel):
    """A read of the connection is requested and will happen soon."""

    connection_id: str
    state: Literal["requested"] = "requested"


class Liveness(WireModel):
    """The process is alive."""

    status: Literal["alive"] = "alive"


class Readiness(WireModel):
    """All dependencies of the service are available."""

    status: Literal["ready"] = "ready"
    parts: dict[str, str] = Field(description="`ok`, by the name of the check.")


class Problem(WireModel):
    """Problem details (RFC 9457): what is wrong, and what to do."""

    type: str = "about:blank"
    title: str = Field(description="The reason phrase of the status.")
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What is wrong with this request, and what to do.")


class ReadinessProblem(Problem):
    """A dependency of the service is not available."""

    parts: dict[str, str] = Field(
        description="By the name of the check: `ok`, what is wrong, or `unknown` if another failure prevents the check."
    )
