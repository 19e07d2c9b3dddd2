"""The changes of a connection that are told: what a decision comes to, before it has a place in the feed."""

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
    """The stored status differs from the one read; ``previous`` is null at first sight."""

    type: ClassVar[EventType] = "connection.status_changed"

    previous: Status | None
    current: Status


class StatusReasonChanged(WireModel):
    """The status stayed, its reason differs."""

    type: ClassVar[EventType] = "connection.status_reason_changed"

    previous: Status
    current: Status


class PrimaryDuplicateMoved(WireModel):
    """The connection's primary moved: ``current`` is where its data lives now."""

    type: ClassVar[EventType] = "connection.primary_duplicate_moved"

    previous: str
    current: str
    duplicate_ids: list[str]
    role: Role = Field(
        description="`became_primary`: current is this connection; `lost_primary`: previous was; `followed`: neither."
    )


Change = StatusChanged | StatusReasonChanged | PrimaryDuplicateMoved
