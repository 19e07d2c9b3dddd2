"""What the API answers around the shapes of ``api.py`` and ``events.py``: pages, receipts, readiness, problems."""

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
    """One page of the mirror, in the order of ids."""

    connections: list[Connection]
    next: Cursor = Field(description="`after` of the next page; null on the last.")


class FailurePage(WireModel):
    """One page of the failures, in the order of the connections' ids."""

    failures: list[Failure]
    next: Cursor = Field(description="`after` of the next page; null on the last.")


class DuplicateGroupMember(WireModel):
    """One member of a duplicate group, with the group as it sees it; all null for one that was never seen."""

    id: str
    status: str | None = None
    primary_duplicate_id: str | None = None
    duplicate_ids: list[str] | None = None
    grouped_at: datetime | None = Field(default=None, description="When the read began that last changed its group.")
    checked_at: datetime | None = None


class DuplicateGroup(WireModel):
    """A duplicate group, by the mirror's rows of all its members."""

    connection_id: str
    converged: bool = Field(description="Whether all living members name one of them as primary, and each other.")
    since: datetime | None = Field(description="When the read began that last changed any member's group.")
    members: list[DuplicateGroupMember]


class EventPage(WireModel):
    """One page of the feed, in the order of positions."""

    events: list[Event]
    next: int = Field(
        description="`after` of the next page: the position of the last event, or `after` itself where there is none."
    )


class WebhookPage(WireModel):
    """One page of the stored webhooks, in the order in which they were stored."""

    webhooks: list[Webhook]
    next: Cursor = Field(description="`after` of the next page; null on the last.")


class RejectionPage(WireModel):
    """One page of the refused webhooks that were kept, in the order in which they first came."""

    rejections: list[Rejection]
    next: Cursor = Field(description="`after` of the next page; null on the last.")


class SubscriptionPage(WireModel):
    """One page of the subscriptions, in the order of their names."""

    subscriptions: list[Subscription]
    next: Cursor = Field(description="`after` of the next page; null on the last.")


class DeliveryPage(WireModel):
    """One page of the deliveries, in the order in which they were owed."""

    deliveries: list[Delivery]
    next: Cursor = Field(description="`after` of the next page; null on the last.")


class AuditPage(WireModel):
    """One page of the operators' acts, the latest first."""

    acts: list[AuditEntry]
    next: Cursor = Field(description="`after` of the next page; null on the last.")


class ReplayPage(WireModel):
    """One page of the replays, in the order in which they were started."""

    replays: list[Replay]
    next: Cursor = Field(description="`after` of the next page; null on the last.")


class RedriveReceipt(WireModel):
    """Dead deliveries are tried again from now on."""

    subscription_id: str
    redriven: int = Field(description="How many there were.")


class RefreshReceipt(WireModel):
    """A read of Meld is owed to the connection and will be done soon."""

    connection_id: str
    state: Literal["requested"] = "requested"


class Liveness(WireModel):
    """The process lives."""

    status: Literal["alive"] = "alive"


class Readiness(WireModel):
    """Everything that the service needs is there."""

    status: Literal["ready"] = "ready"
    parts: dict[str, str] = Field(description="By part: `ok`.")


class Problem(WireModel):
    """What was wrong and what to do about it (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="The status in words.")
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What was wrong with this request, and what to do.")


class ReadinessProblem(Problem):
    """Something that the service needs is missing."""

    parts: dict[str, str] = Field(
        description="By part: `ok`, what is wrong with it, or `unknown` where another part's failure hides it."
    )
