"""Tell: the observation of what a read saw, and the events of what that changed, at the end of the feed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Executable, bindparam, insert, update
from sqlmodel import Session, col

from runtime.database import Database
from schemas.events import Cause
from schemas.jobs import FEED_CHANNEL
from schemas.tables import Connection, Counter, Event, Observation
from workers.claim import Claim
from workers.decide import Decision
from workers.event import events_of
from workers.mirror import Reading
from workers.owe import owe

_OBSERVE = insert(Observation).returning(col(Observation.id), sort_by_parameter_order=True)
_APPEND = insert(Event)


@dataclass(frozen=True, slots=True)
class Seen:
    """A read that saw something new, the row that it makes of the mirror, and what follows from it."""

    claim: Claim
    reading: Reading
    mirror: Connection
    decision: Decision


@dataclass(frozen=True, slots=True)
class Told:
    """The types of the events that were appended, and the subscriptions that one of them is owed to."""

    types: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()


def tell(database: Database, session: Session, seen: Sequence[Seen]) -> Told:
    """Keep what reads saw, and append what they changed to the feed, in their order."""
    observations = session.connection().execute(_OBSERVE, [_observation(one) for one in seen]).scalars().all()
    rows = [event for one, id_ in zip(seen, observations, strict=True) for event in _events(one, id_)]
    return Told(tuple(row.type for row in rows), append(database, session, rows))


def _observation(seen: Seen) -> dict[str, Any]:
    claim, reading, is_found = seen.claim, seen.reading, seen.reading.snapshot is not None
    return {
        "connection_id": claim.connection_id,
        "account_id": seen.mirror.account_id,
        "generation": claim.generation,
        "trigger": claim.cause,
        "webhook_event_ids": claim.event_ids,
        "began_at": reading.began_at,
        "ended_at": reading.ended_at,
        "found": is_found,
        "digest": seen.mirror.digest,
        "document": seen.mirror.document if is_found else {},
        "replay_id": claim.replay_id,
    }


def _events(seen: Seen, observation_id: int | None) -> tuple[Event, ...]:
    assert observation_id is not None
    claim = seen.claim
    cause = Cause(
        trigger=claim.cause,
        webhook_event_ids=claim.event_ids,
        observation_id=observation_id,
        replay_id=claim.replay_id,
    )
    return events_of(seen.mirror, seen.decision.changes, cause, seen.reading.ended_at)


def append(database: Database, session: Session, rows: Sequence[Event]) -> tuple[str, ...]:
    """Put events at the end of the feed, in their order; return the subscriptions that one of them is owed to.

    The counter is taken last, so that positions grow in commit order. Who listens for the feed hears of the commit.
    """
    if not rows:
        return ()
    last: int = database.run(session, _take_places, count=len(rows)).scalar_one()
    for position, row in enumerate(rows, start=last - len(rows) + 1):
        row.position = position
    values = [row.model_dump() for row in rows]
    session.connection().execute(_APPEND, values)
    return owe(database, session, values)


def _take_places(database: Database) -> Executable:
    """Take the next places. Who takes some tells so in the same breath: a second statement would cost a round trip."""
    taken = update(Counter).where(col(Counter.name) == "feed").values(value=Counter.value + bindparam("count"))
    return taken.returning(col(Counter.value), database.notification(FEED_CHANNEL))
