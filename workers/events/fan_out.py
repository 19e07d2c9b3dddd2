"""Fan-out to the outbox: one delivery of each event for each subscription that wants it (transactional outbox).

The deliveries are written in the transaction of the events. So an event is stored if and only if its deliveries are.
Subscriptions that are paused, failing or disabled get theirs too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert
from sqlmodel import Session, select

from runtime.database import Database
from runtime.queues.deliveries import mark_queues_due
from schemas.tables import DeliveryRow, SubscriptionRow

_SUBSCRIPTIONS = select(SubscriptionRow.id, SubscriptionRow.types)
_EVENT_COLUMNS = ("position", "connection_id", "type")


def fan_out(database: Database, session: Session, events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Write the deliveries of events.

    The caller holds the row lock on the feed counter. A subscription that is being created waits for it and begins
    after these events; one that was created before is seen here.

    Args:
        database: The database.
        session: An open transaction.
        events: The rows of the feed that the transaction has written.

    Returns:
        The subscriptions that have new deliveries; notify their workers after the commit.
    """
    subscriptions = session.connection().execute(_SUBSCRIPTIONS).all()
    rows = [
        {
            "subscription_id": id_,
            "event_id": event["id"],
            "outcomes": [],
            **{name: event[name] for name in _EVENT_COLUMNS},
        }
        for id_, types in subscriptions
        for event in events
        if not types or event["type"] in types
    ]
    if not rows:
        return ()
    pairs = {(row["subscription_id"], row["connection_id"]) for row in rows}
    mark_queues_due(database, session, pairs)
    session.connection().execute(insert(DeliveryRow).values(created_at=database.now(), attempts=0), rows)
    return tuple(sorted({row["subscription_id"] for row in rows}))
