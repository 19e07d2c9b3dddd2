"""Tell: the observation of what a read saw, and the events of what that changed, at the end of the feed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert
from sqlmodel import Session, col

from runtime.database import Database
from schemas.events import Cause
from schemas.tables import ConnectionRow, EventRow, ObservationRow
from workers.events.append import append
from workers.events.event_factory import events_of
from workers.refetch.decision import Decision
from workers.refetch.lease import ReadLease
from workers.refetch.mirror_row import Reading

_OBSERVE = insert(ObservationRow).returning(col(ObservationRow.id), sort_by_parameter_order=True)


@dataclass(frozen=True, slots=True)
class Observed:
    """A read that saw something new, the row that it makes of the mirror, and what follows from it."""

    claim: ReadLease
    reading: Reading
    mirror: ConnectionRow
    decision: Decision


@dataclass(frozen=True, slots=True)
class AppendedEvents:
    """The types of the events that were appended, and the subscriptions that one of them is owed to."""

    types: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()


def record_observations(database: Database, session: Session, seen: Sequence[Observed]) -> AppendedEvents:
    """Keep what reads saw, and append what they changed to the feed, in their order."""
    observations = session.connection().execute(_OBSERVE, [_observation(one) for one in seen]).scalars().all()
    rows = [event for one, id_ in zip(seen, observations, strict=True) for event in _events(one, id_)]
    return AppendedEvents(tuple(row.type for row in rows), append(database, session, rows))


def _observation(seen: Observed) -> dict[str, Any]:
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


def _events(seen: Observed, observation_id: int | None) -> tuple[EventRow, ...]:
    assert observation_id is not None
    claim = seen.claim
    cause = Cause(
        trigger=claim.cause,
        webhook_event_ids=claim.event_ids,
        observation_id=observation_id,
        replay_id=claim.replay_id,
    )
    return events_of(seen.mirror, seen.decision.changes, cause, seen.reading.ended_at)
