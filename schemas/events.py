"""The internal events: CloudEvents 1.0, the same object in the feed, the stream, a push and a handler.

A change is what was decided; an ``Event`` is what is told: a change with its connection, its cause and its place.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from schemas import tables
from schemas.api import Connection, Wire
from schemas.jobs import Trigger

EventType = Literal[
    "connection.status_changed", "connection.status_reason_changed", "connection.primary_duplicate_moved"
]
Role = Literal["became_primary", "lost_primary", "followed"]


class Status(Wire):
    """A status with its reason."""

    status: str
    status_reason: str | None


class StatusChanged(Wire):
    """The stored status differs from the one read; ``previous`` is null at first sight."""

    type: ClassVar[EventType] = "connection.status_changed"

    previous: Status | None
    current: Status


class StatusReasonChanged(Wire):
    """The status stayed, its reason differs."""

    type: ClassVar[EventType] = "connection.status_reason_changed"

    previous: Status
    current: Status


class PrimaryDuplicateMoved(Wire):
    """The connection's primary moved: ``current`` is where its data lives now."""

    type: ClassVar[EventType] = "connection.primary_duplicate_moved"

    previous: str
    current: str
    duplicate_ids: list[str]
    role: Role = Field(
        description="`became_primary`: current is this connection; `lost_primary`: previous was; `followed`: neither."
    )


Change = StatusChanged | StatusReasonChanged | PrimaryDuplicateMoved


class Cause(Wire):
    """Why the read happened that saw the change."""

    trigger: Trigger
    webhook_event_ids: list[str]
    observation_id: int


class StatusChangedData(StatusChanged):
    """``data`` of a ``connection.status_changed``."""

    connection: Connection
    cause: Cause


class StatusReasonChangedData(StatusReasonChanged):
    """``data`` of a ``connection.status_reason_changed``."""

    connection: Connection
    cause: Cause


class PrimaryDuplicateMovedData(PrimaryDuplicateMoved):
    """``data`` of a ``connection.primary_duplicate_moved``."""

    connection: Connection
    cause: Cause


DATA: dict[EventType, type[StatusChangedData | StatusReasonChangedData | PrimaryDuplicateMovedData]] = {
    data.type: data for data in (StatusChangedData, StatusReasonChangedData, PrimaryDuplicateMovedData)
}
"""The shape of ``data``, by event type."""


class _Envelope(Wire):
    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str = Field(description="`urn:meld:account:<accountId>`")
    subject: str = Field(description="The connection's id.")
    time: datetime = Field(description="When the change was read from Meld.")
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str
    position: int = Field(description="The place in the whole feed; strictly increasing in commit order.")
    sequence: Annotated[str, Field(pattern=r"^\d{8,}$")] = Field(
        description="The place among the connection's events, from 1 without a gap."
    )


class Event(_Envelope):
    """An event of any type, as it is sent out."""

    type: EventType
    data: dict[str, Any]

    @classmethod
    def from_row(cls, row: tables.Event) -> "Event":
        """Make the CloudEvent from the feed's row."""
        return cls.model_validate(
            {
                "id": row.id,
                "source": f"urn:meld:account:{row.account_id}",
                "type": row.type,
                "subject": row.connection_id,
                "time": row.time,
                "dataschema": f"urn:meldwatch:schema:{row.type}:1",
                "position": row.position,
                "sequence": f"{row.sequence:08d}",
                "data": row.data,
            }
        )
