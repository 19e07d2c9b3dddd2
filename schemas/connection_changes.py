"""Changes of a connection that become events: new status, new reason, moved primary duplicate."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.wire_model import WireModel

EventType = Literal[
    "connection.status_changed", "connection.status_reason_changed", "connection.primary_duplicate_moved"
]
Role = Literal["became_primary", "lost_primary", "followed"]


class Status(WireModel):
    """A status with its reason."""

    status: str
    status_reason: str | None


class StatusChanged(WireModel):
    """The stored status differs from the one read; ``previous`` is null on the first read."""

    type: ClassVar[EventType] = "connection.status_changed"

    previous: Status | None
    current: Status


class StatusReasonChanged(WireModel):
    """Only the reason of the status differs."""

    type: ClassVar[EventType] = "connection.status_reason_changed"

    previous: Status
    current: Status


class PrimaryDuplicateMoved(WireModel):
    """The primary of the connection's duplicate group moved: ``current`` now has the data."""

    type: ClassVar[EventType] = "connection.primary_duplicate_moved"

    previous: str
    current: str
    duplicate_ids: list[str]
    role: Role = Field(
        description="`became_primary`: current is this connection; `lost_primary`: previous was; `followed`: neither."
    )


Change = StatusChanged | StatusReasonChanged | PrimaryDuplicateMoved
