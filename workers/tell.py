"""Tell: the observation of what a read saw, and the events of what that changed, at the end of the feed."""

import uuid
from dataclasses import dataclass

from sqlalchemy import bindparam, insert, update
from sqlmodel import Session, col

from runtime.database import Database
from schemas import api, events
from schemas.tables import Connection, Counter, Event, Observation
from workers.claim import Claim
from workers.decide import Decision
from workers.mirror import Reading
from workers.owe import owe

EVENT_NAMESPACE = uuid.UUID("6d656c64-7761-5463-8000-636f6e6e6563")
"""Event ids are made in it; it must never change."""


_OBSERVE = insert(Observation).returning(col(Observation.id))
_APPEND = insert(Event)
_TAKE_PLACES = (
    update(Counter)
    .where(col(Counter.name) == "feed")
    .values(value=Counter.value + bindparam("count"))
    .returning(col(Counter.value))
)


@dataclass(frozen=True, slots=True)
class Told:
    """The types of the events that were appended, and the subscriptions that one of them is owed to."""

    types: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()


def observe(session: Session, claim: Claim, reading: Reading, mirror: Connection) -> int:
    """Keep what the read saw, and return the observation's id."""
    observation = {
        "connection_id": claim.connection_id,
        "generation": claim.generation,
        "trigger": claim.cause,
        "webhook_event_ids": claim.event_ids,
        "began_at": reading.began_at,
        "ended_at": reading.ended_at,
        "found": reading.snapshot is not None,
        "digest": mirror.digest,
        "document": mirror.document if reading.snapshot is not None else {},
    }
    observation_id = session.connection().execute(_OBSERVE, observation).scalar_one()
    assert observation_id is not None
    return observation_id


def tell(
    database: Database,
    session: Session,
    claim: Claim,
    reading: Reading,
    mirror: Connection,
    *,
    decision: Decision,
    observation_id: int,
) -> Told:
    """Append the changes to the feed, and owe them to the subscriptions that want them.

    The counter is taken last, so that positions grow in commit order.
    """
    if not decision.changes:
        return Told()
    cause = events.Cause(
        trigger=claim.cause,
        webhook_event_ids=claim.event_ids,
        observation_id=observation_id,
    )
    key = f"{mirror.id}\n{reading.began_at.isoformat()}\n{mirror.digest}"
    count = len(decision.changes)
    last: int = session.connection().execute(_TAKE_PLACES, {"count": count}).scalar_one()
    rows = []
    for position, change in enumerate(decision.changes, start=last - count + 1):
        mirror.sequence += 1
        data = events.DATA[change.type](**dict(change), connection=api.Connection.from_row(mirror), cause=cause)
        rows.append(
            {
                "position": position,
                "id": str(uuid.uuid5(EVENT_NAMESPACE, f"{key}\n{change.type}")),
                "connection_id": mirror.id,
                "sequence": mirror.sequence,
                "type": change.type,
                "account_id": mirror.account_id,
                "time": reading.ended_at,
                "observation_id": observation_id,
                "data": data.model_dump(mode="json"),
            }
        )
    session.connection().execute(_APPEND, rows)
    return Told(tuple(change.type for change in decision.changes), owe(database, session, rows))
