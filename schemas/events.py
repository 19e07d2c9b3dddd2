"""The internal events: CloudEvents 1.0, the same object in the feed, the stream, a push and a handler.

An event is a change with its connection, its cause and its place in the feed.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas import tables
from schemas.api import Connection
from schemas.changes import EventType, PrimaryDuplicateMoved, StatusChanged, StatusReasonChanged
from schemas.jobs import Trigger
from schemas.wire import Wire


class Cause(Wire):
    """Why the read happened that saw the change."""

    trigger: Trigger
    webhook_event_ids: list[str]
    observation_id: int
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
