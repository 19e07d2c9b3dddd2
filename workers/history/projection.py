"""Projection (event sourcing): replays a connection's stored observations into its mirror row and its events. Pure.

Mirror and feed are materialized views of the observations. The projection uses the same decision as the read that made
the observation. The mirror follows from the observations, except
``checked_at`` (the time of the last read) and ``reconcile_run_id`` (the last reconcile run that listed it).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from schemas.events import Cause
from schemas.meld.connection import Snapshot
from schemas.tables import BaselineRow, ConnectionRow, EventRow, ObservationRow
from workers.events.event_factory import create_events
from workers.refetch.decision import decide
from workers.refetch.mirror_row import Reading, build_mirror_row, mirror_state

UNPROJECTED_COLUMNS = frozenset({"checked_at", "reconcile_run_id"})
"""The columns of the mirror that do not follow from observations."""


@dataclass(frozen=True, slots=True)
class ProjectionStep:
    """The mirror after an observation, and the events that the observation caused."""

    mirror: ConnectionRow
    events: tuple[EventRow, ...]


def project_observation(row: ConnectionRow | None, observation: ObservationRow) -> ProjectionStep:
    """Apply one observation to a mirror row.

    Args:
        row: The mirror before the observation; None for the first one.
        observation: The next observation of the connection.

    Raises:
        pydantic.ValidationError: If no read can have stored this observation: it is damaged.
    """
    assert observation.id is not None
    mirror = _project_mirror(row, observation)
    before = mirror_state(row) if row is not None else None
    # The events depend on the two states alone; siblings and hints only lead to further reads.
    changes = decide(before, mirror_state(mirror), {}, None).changes
    cause = Cause.model_validate(
        {
            "trigger": observation.trigger,
            "webhook_event_ids": observation.webhook_event_ids,
            "observation_id": observation.id,
            "replay_id": observation.replay_id,
        }
    )
    return ProjectionStep(mirror, create_events(mirror, changes, cause, observation.ended_at))


def project_mirrors(
    baseline: BaselineRow | None, observations: Iterable[ObservationRow]
) -> Iterator[ConnectionRow | None]:
    """Yield the mirror before the first observation, then the mirror after each one."""
    row = baseline_mirror(baseline) if baseline is not None else None
    yield row
    for observation in observations:
        row = project_observation(row, observation).mirror
        yield row


def baseline_mirror(baseline: BaselineRow) -> ConnectionRow:
    """Return the mirror row that a baseline holds."""
    return ConnectionRow.model_validate(baseline.mirror)


def advance_baseline(
    connection_id: str, baseline: BaselineRow | None, observations: Iterable[ObservationRow], sequence: int | None
) -> BaselineRow | None:
    """Return a baseline (snapshot) that includes the connection's oldest observations, which may then be removed.

    Args:
        connection_id: The connection.
        baseline: The present baseline; None if there is none.
        observations: The observations after it, in order.
        sequence: The highest sequence of these observations' events; None if it is unknown because retention removed
            them together with later events.
    """
    row = baseline_mirror(baseline) if baseline is not None else None
    used = row.sequence if row is not None else 0
    last: ObservationRow | None = None
    for last in observations:
        row = project_observation(row, last).mirror
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


def _project_mirror(row: ConnectionRow | None, observation: ObservationRow) -> ConnectionRow:
    snapshot = Snapshot.from_document(observation.document) if observation.found else None
    reading = Reading(snapshot, observation.began_at, observation.ended_at)
    mirror = build_mirror_row(observation.connection_id, observation.account_id, row, reading)
    # The stored digest: the database may format numbers differently than Meld, so a computed one could differ.
    mirror.digest = observation.digest
    return mirror
