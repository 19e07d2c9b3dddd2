"""Create the rows of events from the changes of a read. Pure; `workers/events/append.py` allocates the positions."""

import uuid
from collections.abc import Iterable
from datetime import datetime

from schemas import api_resources, events
from schemas.connection_changes import Change
from schemas.tables import ConnectionRow, EventRow

EVENT_NAMESPACE = uuid.UUID("6d656c64-7761-5463-8000-636f6e6e6563")
"""The UUID namespace of event ids. It must never change: ids are deterministic, so the same change has one event."""


def create_events(
    mirror: ConnectionRow, changes: Iterable[Change], cause: events.Cause, time: datetime
) -> tuple[EventRow, ...]:
    """Return one event for each change of a read, and advance the sequence of the mirror row.

    Args:
        mirror: The mirror row of the connection after the read.
        changes: What the read changed, in order.
        cause: Why it was read.
        time: When the read received its answer.
    """
    return tuple(_event(mirror, change, cause, time) for change in changes)


def _event(mirror: ConnectionRow, change: Change, cause: events.Cause, time: datetime) -> EventRow:
    mirror.sequence += 1
    data = events.DATA_MODELS[change.type](
        **dict(change), connection=api_resources.Connection.from_row(mirror), cause=cause
    )
    key = f"{mirror.id}\n{mirror.observed_at.isoformat()}\n{mirror.digest}\n{change.type}"
    return EventRow(
        position=0,  # allocated when the event is appended
        id=str(uuid.uuid5(EVENT_NAMESPACE, key)),
        connection_id=mirror.id,
        sequence=mirror.sequence,
        type=change.type,
        account_id=mirror.account_id,
        time=time,
        observation_id=cause.observation_id,
        data=data.model_dump(mode="json"),
    )
