"""Observations: insert what reads saw, and append the events of what that changed to the feed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert
from sqlmodel import Session, col

from runtime.database import Database
from schemas.events import Cause
from schemas.tables import ConnectionRow, EventRow, ObservationRow
from workers.events.append import append
from workers.events.event_factory import create_events
from workers.refetch.decision import Decision
from workers.refetch.lease import ReadLease
from workers.refetch.mirror_row import Reading

_OBSERVE = insert(ObservationRow).returning(col(ObservationRow.id), sort_by_parameter_order=True)


@dataclass(frozen=True, slots=True)
class Observed:
    """A read that saw something new, with the resulting mirror row and the decision."""

    lease: ReadLease
    reading: Reading
    mirror: ConnectionRow
    decision: Decision


@dataclass(frozen=True, slots=True)
class AppendedEvents:
    """The types of the appended events, and the subscriptions that have new deliveries."""

    types: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()


def record_observations(database: Database, session: Session, seen: Sequence[Observed]) -> AppendedEvents:
    """Insert one observation for each read, and append the events of its changes, in the order of the reads."""
    observations = session.connection().execute(_OBSERVE, [_observation(one) for one in seen]).scalars().all()
    rows = [event for one, id_ in zip(seen, observations, strict=True) for event in _events(one, id_)]
    return AppendedEvents(tuple(row.type for row in rows), append(database, session, rows))


def _observation(seen: Observed) -> dict[str, Any]:
    lease, reading, is_found = seen.lease, seen.reading, seen.reading.snapshot is not None
    return {
        "connection_id": lease.connection_id,
        "account_id": seen.mirror.account_id,
        "generation": lease.generation,
        "trigger": lease.cause,
        "webhook_event_ids": lease.event_ids,
        "began_at": reading.began_at,
        "ended_at": reading.ended_at,
        "found": is_found,
        "digest": seen.mirror.digest,
        "document": seen.mirror.document if is_found else {},
        "replay_id": lease.replay_id,
    }


def _events(seen: Observed, observation_id: int | None) -> tuple[EventRow, ...]:
    assert observation_id is not None
    lease = seen.lease
    cause = Cause(
        trigger=lease.cause,
        webhook_event_ids=lease.event_ids,
        observation_id=observation_id,
        replay_id=lease.replay_id,
    )
    return create_events(seen.mirror, seen.decision.changes, cause, seen.reading.ended_at)
