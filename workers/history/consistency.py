"""Consistency check: compares a connection's mirror and events with the projection of its observations. Pure.

It finds what differs (drift between stored rows and history) and prepares the repair. One pass goes over observations
and events side by side, in the order of the observations. In memory are only the differences and one number for each
event, however long the history is.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any

from pydantic import ValidationError as InvalidError

from runtime.field_diff import diff_documents
from schemas.rebuild_report import FindingKind, RebuildFinding
from schemas.tables import BaselineRow, ConnectionRow, EventBaselineRow, EventRow, ObservationRow
from workers.history import projection


@dataclass(frozen=True, slots=True)
class ConnectionHistory:
    """All rows of one connection; observations and events in the order of the observations, to be consumed once."""

    connection_id: str
    baseline: BaselineRow | None
    event_baseline: EventBaselineRow | None
    stored_mirror: ConnectionRow | None
    observations: Iterator[ObservationRow]
    events: Iterator[EventRow]


@dataclass(slots=True)
class ConsistencyVerdict:
    """The result of a check, and the rows that repair what it found.

    Attributes:
        findings: What differs.
        mirror: The mirror row as it should be; None if there is no observation.
        missing: Events that should be in the feed, in order, each with a free sequence of the connection.
        altered: Corrected events, by the position of the row that differs.
        observations: How many observations were projected.
    """

    findings: list[RebuildFinding] = field(default_factory=list)
    mirror: ConnectionRow | None = None
    missing: list[EventRow] = field(default_factory=list)
    altered: dict[int, EventRow] = field(default_factory=dict)
    observations: int = 0

    @property
    def is_repairable(self) -> bool:
        """Whether at least one finding can be repaired."""
        return any(finding.is_mendable for finding in self.findings)


def check_consistency(history: ConnectionHistory) -> ConsistencyVerdict:
    """Compare a connection's rows with the projection of its observations."""
    try:
        comparison = _Comparison(history)
        comparison.project()
    except InvalidError:
        damaged = RebuildFinding(
            connection_id=history.connection_id,
            kind="history",
            field="observation",
            stored="one cannot be what a read saw",
            is_mendable=False,
        )
        return ConsistencyVerdict([damaged])
    comparison.match_misfiled_events()
    comparison.assign_sequences()
    comparison.check_order()
    comparison.check_mirror()
    return comparison.finish()


class _Comparison:
    """The check of one history, in steps: ``check_consistency`` calls the public methods in their order."""

    def __init__(self, history: ConnectionHistory) -> None:
        baseline, event_baseline = history.baseline, history.event_baseline
        self.verdict = ConsistencyVerdict(mirror=projection.baseline_mirror(baseline) if baseline is not None else None)
        self._history = history
        # The last observation that the baseline includes, and the last one whose events retention may have removed.
        self._included_id = baseline.observation_id if baseline is not None else 0
        self._unchecked_id = max(self._included_id, event_baseline.observation_id if event_baseline is not None else 0)
        # The highest sequence of events up to there.
        self._base_sequence = self.verdict.mirror.sequence if self.verdict.mirror is not None else 0
        self._base_sequence = max(self._base_sequence, event_baseline.sequence if event_baseline is not None else 0)
        self._last_sequence = self._base_sequence
        self._is_complete = True
        self._expected_events = 0
        self._sequences: list[int] = []
        # Of each event that is in the feed: its rank by observations, its sequence, its position.
        self._order: list[tuple[int, int, int]] = []
        self._renumbered: list[tuple[int, EventRow, EventRow]] = []
        self._missing: list[tuple[int, EventRow]] = []
        # Rows that their observation did not cause, and rows whose observation is not there.
        self._unexpected: list[EventRow] = []
        self._orphans: list[EventRow] = []

    def project(self) -> None:
        """Project each observation, and compare the events that it causes with the stored ones."""
        rows = _EventCursor(row for row in self._history.events if not self._is_unchecked(row))
        for observation in self._history.observations:
            assert observation.id is not None
            if observation.id > self._included_id:
                self._orphans += rows.take_before(observation.id)
                step = projection.project_observation(self.verdict.mirror, observation)
                self.verdict.mirror = step.mirror
                self.verdict.observations += 1
                expected = step.events if observation.id > self._unchecked_id else ()
                self._match(expected, rows.take_before(observation.id + 1))
        self._orphans += rows.take_rest()

    def match_misfiled_events(self) -> None:
        """Match rows that name a wrong observation with the missing events, by id; report the other rows."""
        missing = {event.id: (rank, event) for rank, event in self._missing}
        for rows in (self._unexpected, self._orphans):
            for row in [each for each in rows if each.id in missing]:
                self._compare_event(*missing.pop(row.id), row)
                rows.remove(row)
        self._missing = [(rank, event) for rank, event in self._missing if event.id in missing]
        for row in (*self._unexpected, *self._orphans):
            self._sequences.append(row.sequence)
            self._add_finding("event", "row", stored=row.type, event_id=row.id, mendable=False)
        if self._orphans:
            self._mark_incomplete([row.observation_id for row in self._orphans])

    def assign_sequences(self) -> None:
        """Restore the sequences of renumbered rows, and assign free ones to missing events."""
        for rank, event, row in self._renumbered:
            is_free = event.sequence not in self._sequences
            self._add_finding(
                "event", "sequence", stored=row.sequence, folded=event.sequence, event_id=event.id, mendable=is_free
            )
            if is_free:
                self.verdict.altered[row.position] = mark_rebuilt(event, rebuilt_at(row))
            self._sequences.append(event.sequence if is_free else row.sequence)
            self._order.append((rank, self._sequences[-1], row.position))
        used = sorted({self._base_sequence, *(number for number in self._sequences if number > self._base_sequence)})
        free = _free_sequences(used)
        for _rank, event in self._missing:
            self.verdict.missing.append(_with_sequence(event, next(free)))
            self._add_finding("event", "row", folded=event.type, event_id=event.id)
        self._last_sequence = max([used[-1], *(event.sequence for event in self.verdict.missing)])
        if (gap := next(free)) < self._last_sequence:
            self._add_finding("event", "sequence", folded=gap, mendable=False)

    def check_order(self) -> None:
        """Check that the events stand in the feed in the order of their reads."""
        for what, index in (("sequence", 1), ("position", 2)):
            numbers = [each[index] for each in sorted(self._order)]
            if numbers != sorted(numbers):
                self._add_finding("event", what, stored="not in the order of the reads", mendable=False)

    def check_mirror(self) -> None:
        """Compare the stored mirror row with the projected one."""
        stored, projected = self._history.stored_mirror, self.verdict.mirror
        if projected is not None:
            projected.sequence = self._last_sequence
        if stored is None or projected is None:
            if stored is not None:
                self._add_finding("mirror", "row", stored=stored.status, mendable=False)
            elif projected is not None:
                self._add_finding("mirror", "row", folded=projected.status)
            return
        before, after = (row.model_dump(exclude=set(projection.UNPROJECTED_COLUMNS)) for row in (stored, projected))
        for each in diff_documents(before, after):
            self._add_finding("mirror", each.field, stored=each.before, folded=each.after)
        if stored.observed_at > projected.observed_at and stored.digest != projected.digest:
            self._mark_incomplete("the mirror is of a later read than the last that is there")

    def finish(self) -> ConsistencyVerdict:
        """Return the verdict. Nothing is repairable if observations are lost: then the projection itself is wrong."""
        if not self._is_complete:
            self.verdict.findings = [each.model_copy(update={"is_mendable": False}) for each in self.verdict.findings]
        return self.verdict

    def _is_unchecked(self, row: EventRow) -> bool:
        return row.observation_id <= self._unchecked_id and row.sequence <= self._base_sequence

    def _match(self, events: Iterable[EventRow], rows: list[EventRow]) -> None:
        """Match the events that an observation causes with the rows that name it, by id or else by type."""
        for event in events:
            self._expected_events += 1
            own = [row for row in rows if row.id == event.id] or [row for row in rows if row.type == event.type]
            if own:
                rows.remove(own[0])
                self._compare_event(self._expected_events, event, own[0])
            else:
                self._missing.append((self._expected_events, event))
        self._unexpected += rows

    def _compare_event(self, rank: int, event: EventRow, row: EventRow) -> None:
        """Compare an expected event with its row in the feed."""
        if row.sequence != event.sequence == _embedded_sequence(row):
            self._renumbered.append((rank, event, row))
            return
        self._sequences.append(row.sequence)
        if rebuilt_at(row) is None:
            self._order.append((rank, row.sequence, row.position))
        expected = mark_rebuilt(_with_sequence(event, row.sequence), rebuilt_at(row))
        differences = list(diff_documents(_compared_fields(row), _compared_fields(expected)))
        for each in differences:
            self._add_finding("event", each.field, stored=each.before, folded=each.after, event_id=event.id)
        if differences:
            self.verdict.altered[row.position] = expected

    def _add_finding(
        self,
        kind: FindingKind,
        what: str,
        *,
        mendable: bool = True,
        **values: Any,  # noqa: ANN401 - a row's values
    ) -> None:
        connection_id = self._history.connection_id
        self.verdict.findings.append(
            RebuildFinding(connection_id=connection_id, kind=kind, field=what, is_mendable=mendable, **values)
        )

    def _mark_incomplete(self, reason: object) -> None:
        self._is_complete = False
        self._add_finding("history", "observation", stored=reason)


class _EventCursor:
    """Reads events in the order of their observations, up to one observation after the other."""

    def __init__(self, rows: Iterator[EventRow]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def take_before(self, observation_id: int) -> list[EventRow]:
        """Return the next rows, as far as their observation is an earlier one."""
        taken = []
        while self._next is not None and self._next.observation_id < observation_id:
            taken.append(self._next)
            self._next = next(self._rows, None)
        return taken

    def take_rest(self) -> list[EventRow]:
        """Return all further rows."""
        return [*([self._next] if self._next is not None else []), *self._rows]


def mark_rebuilt(event: EventRow, at: Any) -> EventRow:  # noqa: ANN401 - as stored
    """Return the event with the mark that a rebuild appended it at this time, long after its read; None: unmarked."""
    if at is None:
        return event
    # The operator who ran the rebuild is the cause now, no longer a replay that requested the read.
    cause = {name: value for name, value in event.data["cause"].items() if name != "replay_id"}
    return _copy(event, data={**event.data, "cause": {**cause, "trigger": "operator", "rebuilt_at": at}})


def rebuilt_at(row: EventRow) -> Any:  # noqa: ANN401 - a row's data, which may be anything
    """Return when a rebuild appended the event; None if its read did."""
    return _embedded_mapping(row, "cause").get("rebuilt_at")


def _embedded_sequence(row: EventRow) -> Any:  # noqa: ANN401 - as above
    """Return the sequence inside the event's data."""
    return _embedded_mapping(row, "connection").get("sequence")


def _embedded_mapping(row: EventRow, name: str) -> Mapping[str, Any]:
    data: object = row.data  # in a damaged row it may be anything
    part = data.get(name) if isinstance(data, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _with_sequence(event: EventRow, sequence: int) -> EventRow:
    """Return the event with this sequence, in its column and in its data."""
    if event.sequence == sequence:
        return event
    connection = {**event.data["connection"], "sequence": sequence}
    return _copy(event, sequence=sequence, data={**event.data, "connection": connection})


def _copy(event: EventRow, **values: Any) -> EventRow:  # noqa: ANN401 - columns
    return EventRow(**{**event.model_dump(exclude={"data"}), "data": event.data, **values})


def _compared_fields(event: EventRow) -> dict[str, Any]:
    """Return all fields that follow from an observation: all but position and sequence."""
    return {**event.model_dump(exclude={"position", "sequence", "data"}), "data": event.data}


def _free_sequences(used: list[int]) -> Iterator[int]:
    """Yield the numbers after the first used one that are not used; ``used`` is sorted."""
    for number, following in pairwise(used):
        yield from range(number + 1, following)
    yield from count(used[-1] + 1)
