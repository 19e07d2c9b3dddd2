"""Owe: for each event of a transaction, a delivery to each subscription that wants it, in the same transaction.

So there is an event if and only if it is owed; what is paused, failing or disabled is owed all the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert
from sqlmodel import Session, select

from runtime.database import Database
from runtime.queues.deliveries import mark_queues_due
from schemas.tables import DeliveryRow, SubscriptionRow

_WANTS = select(SubscriptionRow.id, SubscriptionRow.types)
_OWN = ("position", "connection_id", "type")


def owe(database: Database, session: Session, events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Owe events to subscriptions; return the subscriptions whose workers should be called after the commit.

    The caller holds the feed's counter: a subscription that is made meanwhile waits for it, and begins behind these
    events; one that was made before is seen here.

    Args:
        database: The database.
        session: An open transaction.
        events: Rows of the feed that it has written.
    """
    wants = session.connection().execute(_WANTS).all()
    rows = [
        {"subscription_id": id_, "event_id": event["id"], "outcomes": [], **{name: event[name] for name in _OWN}}
        for id_, types in wants
        for event in events
        if not types or event["type"] in types
    ]
    if not rows:
        return ()
    pairs = {(row["subscription_id"], row["connection_id"]) for row in rows}
    mark_queues_due(database, session, pairs)
    session.connection().execute(insert(DeliveryRow).values(created_at=database.now(), attempts=0), rows)
    return tuple(sorted({row["subscription_id"] for row in rows}))
