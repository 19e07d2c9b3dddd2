"""The internal events: CloudEvents 1.0, the same object in the feed, the stream, a push and a handler.

An event is a change with its connection, its cause and its place in the feed.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from schemas.api_resources import Connection
from schemas.connection_changes import EventType, PrimaryDuplicateMoved, StatusChanged, StatusReasonChanged
from schemas.message_names import Trigger
from schemas.wire_model import WireModel

if TYPE_CHECKING:
    # Who takes events needs no tables: a handler's process starts in a third of the time without them.
    from schemas import tables

DATA_VERSION = 1
"""Of the shape of ``data``, for all types alike; it stands at the end of each event's ``dataschema``."""


class Cause(WireModel):
    """Why the read happened that saw the change."""

    trigger: Trigger
    webhook_event_ids: list[str]
    observation_id: int
    replay_id: str | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="The replay that had the connection read, where `trigger` is `replay`; else absent.",
    )
    rebuilt_at: datetime | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="When `meldwatch rebuild --apply` put the event into the feed, long after its read; else absent.",
    )


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


DATA_MODELS: dict[EventType, type[StatusChangedData | StatusReasonChangedData | PrimaryDuplicateMovedData]] = {
    data.type: data for data in (StatusChangedData, StatusReasonChangedData, PrimaryDuplicateMovedData)
}
"""The shape of ``data``, by event type."""


class _Envelope(WireModel):
    # What is always the same is always there.
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

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


class StatusChangedEvent(_Envelope):
    """The status of a connection changed, or the connection was seen for the first time."""

    type: Literal["connection.status_changed"]
    dataschema: Literal["urn:meldwatch:schema:connection.status_changed:1"]
    data: StatusChangedData


class StatusReasonChangedEvent(_Envelope):
    """The reason of a connection's status changed."""

    type: Literal["connection.status_reason_changed"]
    dataschema: Literal["urn:meldwatch:schema:connection.status_reason_changed:1"]
    data: StatusReasonChangedData


class PrimaryDuplicateMovedEvent(_Envelope):
    """The primary of a connection's duplicate group moved."""

    type: Literal["connection.primary_duplicate_moved"]
    dataschema: Literal["urn:meldwatch:schema:connection.primary_duplicate_moved:1"]
    data: PrimaryDuplicateMovedData


EVENT_MODELS: dict[EventType, type[StatusChangedEvent | StatusReasonChangedEvent | PrimaryDuplicateMovedEvent]] = {
    "connection.status_changed": StatusChangedEvent,
    "connection.status_reason_changed": StatusReasonChangedEvent,
    "connection.primary_duplicate_moved": PrimaryDuplicateMovedEvent,
}
"""The shape of an event of each type, down to its data: for who wants to know; what is handed on is an ``Event``."""


class Event(_Envelope):
    """An event of any type, as it is sent out."""

    type: EventType
    data: dict[str, Any]

    @classmethod
    def from_row(cls, row: "tables.EventRow") -> "Event":
        """Make the CloudEvent from the feed's row."""
        return cls.model_validate(
            {
                "id": row.id,
                "source": f"urn:meld:account:{row.account_id}",
                "type": row.type,
                "subject": row.connection_id,
                "time": row.time,
                "dataschema": f"urn:meldwatch:schema:{row.type}:{DATA_VERSION}",
                "position": row.position,
                "sequence": f"{row.sequence:08d}",
                "data": row.data,
            }
        )
