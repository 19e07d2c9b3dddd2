"""Event models (CloudEvents 1.0): the same object in the feed, the event stream, a push and a handler.

An event has a change, the connection after it, its cause, and its position in the feed.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from schemas.api_resources import Connection
from schemas.connection_changes import EventType, PrimaryDuplicateMoved, StatusChanged, StatusReasonChanged
from schemas.message_names import Trigger
from schemas.wire_model import WireModel

if TYPE_CHECKING:
    # Consumers of events need no tables: without them a handler process starts in a third of the time.
    from schemas import tables

DATA_VERSION = 1
"""The version of ``data`` of all types, at the end of each event's ``dataschema``."""


class Cause(WireModel):
    """Why the read that found the change was requested."""

    trigger: Trigger
    webhook_event_ids: list[str]
    observation_id: int
    replay_id: str | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="The replay that requested the read, if `trigger` is `replay`; else absent.",
    )
    rebuilt_at: datetime | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="When `meldwatch rebuild --apply` appended the event, long after its read; else absent.",
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
"""The model of ``data``, by event type."""


class _Envelope(WireModel):
    # Constant fields are required in the schema, because they are always present.
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str = Field(description="`urn:meld:account:<accountId>`")
    subject: str = Field(description="The connection's id.")
    time: datetime = Field(description="When the change was read from Meld.")
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str
    position: int = Field(description="The position in the whole feed, strictly increasing in commit order.")
    sequence: Annotated[str, Field(pattern=r"^\d{8,}$")] = Field(
        description="The number of the event among the connection's events, from 1 without gaps."
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
"""The complete model of each event type, for schemas and handlers; internally an ``Event`` is used."""


class Event(_Envelope):
    """An event of any type, as it is sent."""

    type: EventType
    data: dict[str, Any]

    @classmethod
    def from_row(cls, row: "tables.EventRow") -> "Event":
        """Create the CloudEvent from a row of the feed."""
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
