"""Fold: what a connection's observations amount to, through the decision that was made when each was read. Pure.

A mirror is a function of them but for ``checked_at``, when it was last read, and ``reconcile_run_id``, who last listed it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from schemas.events import Cause
from schemas.meld.connection import Snapshot
from schemas.tables import BaselineRow, ConnectionRow, EventRow, ObservationRow
from workers.events.event_factory import events_of
from workers.refetch.decision import decide
from workers.refetch.mirror_row import Reading, mirror_of, state_of

NOT_FOLDED = frozenset({"checked_at", "reconcile_run_id"})
"""The columns of the mirror that no observation says anything of."""


@dataclass(frozen=True, slots=True)
class ProjectionStep:
    """The mirror after an observation, and the events that it led to."""

    mirror: ConnectionRow
    events: tuple[EventRow, ...]


def step(row: ConnectionRow | None, observation: ObservationRow) -> ProjectionStep:
    """Return what an observation makes of what was there before it.

    Args:
        row: The mirror before; None at first sight.
        observation: The next observation of the connection.

    Raises:
        pydantic.ValidationError: Where the observation cannot be what a read saw.
    """
    assert observation.id is not None
    mirror = _mirror(row, observation)
    before = state_of(row) if row is not None else None
    # What is told hangs on the two states alone; siblings and hints lead to reads.
    changes = decide(before, state_of(mirror), {}, None).changes
    cause = Cause.model_validate(
        {
            "trigger": observation.trigger,
            "webhook_event_ids": observation.webhook_event_ids,
            "observation_id": observation.id,
            "replay_id": observation.replay_id,
        }
    )
    return ProjectionStep(mirror, events_of(mirror, changes, cause, observation.ended_at))


def views(baseline: BaselineRow | None, observations: Iterable[ObservationRow]) -> Iterator[ConnectionRow | None]:
    """Yield the mirror as it was before the first observation, and as it was after each."""
    row = row_of(baseline) if baseline is not None else None
    yield row
    for observation in observations:
        row = step(row, observation).mirror
        yield row


def row_of(baseline: BaselineRow) -> ConnectionRow:
    """Return the mirror that a baseline keeps."""
    return ConnectionRow.model_validate(baseline.mirror)


def advanced(
    connection_id: str, baseline: BaselineRow | None, observations: Iterable[ObservationRow], sequence: int | None
) -> BaselineRow | None:
    """Return the baseline that takes a connection's oldest observations in; then they may be removed.

    Args:
        connection_id: The connection.
        baseline: What it has so far.
        observations: Those that follow it, in order.
        sequence: The highest that the events of these observations have; None where that is no longer known, since
            they were removed along with later ones.
    """
    row = row_of(baseline) if baseline is not None else None
    used = row.sequence if row is not None else 0
    last: ObservationRow | None = None
    for last in observations:
        row = step(row, last).mirror
    if last is None or last.id is None or row is None:
        return baseline
    if sequence is not None:
        row.sequence = max(used, sequence)
    return BaselineRow(
        connection_id=connection_id,
        observation_id=last.id,
        ended_at=last.ended_at,
        mirror=row.model_dump(mode="json"),
    )


def _mirror(row: ConnectionRow | None, observation: ObservationRow) -> ConnectionRow:
    snapshot = Snapshot.from_document(observation.document) if observation.found else None
    reading = Reading(snapshot, observation.began_at, observation.ended_at)
    mirror = mirror_of(observation.connection_id, observation.account_id, row, reading)
    # Never computed anew: the database may write a number otherwise than Meld did.
    mirror.digest = observation.digest
    return mirror
