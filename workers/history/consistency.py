"""Check: where a connection's rows are not what its observations amount to, and what would mend them. Pure.

One pass over observations and events side by side, in the order of the observations. Kept is what differs, and of what
does not, a number: however long the history, little of it is in memory.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any

from pydantic import ValidationError as InvalidError

from runtime.document_diff import differences
from schemas.rebuild_report import Kind, RebuildFinding
from schemas.tables import BaselineRow, ConnectionRow, EventBaselineRow, EventRow, ObservationRow
from workers.history import projection


@dataclass(frozen=True, slots=True)
class History:
    """All rows of one connection; observations and events in the order of the observations, to be read once."""

    connection_id: str
    baseline: BaselineRow | None
    floor: EventBaselineRow | None
    live: ConnectionRow | None
    observations: Iterator[ObservationRow]
    events: Iterator[EventRow]


@dataclass(slots=True)
class ConsistencyVerdict:
    """What was found, and what would mend it.

    Attributes:
        findings: What differs.
        mirror: The mirror's row as it should be; None where no observation says anything.
        missing: Events that should be there, in order, each with a free place in the connection's sequence.
        altered: Events as they should be, by the position of the row that is otherwise.
        observations: How many were folded.
    """

    findings: list[RebuildFinding] = field(default_factory=list)
    mirror: ConnectionRow | None = None
    missing: list[EventRow] = field(default_factory=list)
    altered: dict[int, EventRow] = field(default_factory=dict)
    observations: int = 0

    @property
    def is_mendable(self) -> bool:
        """Whether anything can be mended."""
        return any(finding.is_mendable for finding in self.findings)


def check(history: History) -> ConsistencyVerdict:
    """Compare a connection's rows with the fold of its observations."""
    try:
        comparison = _Comparison(history)
        comparison.fold()
    except InvalidError:
        return ConsistencyVerdict(
            [_finding(history, "history", "observation", stored="one cannot be what a read saw", mendable=False)]
        )
    comparison.reunite()
    comparison.number()
    comparison.judge_order()
    comparison.judge_mirror()
    return comparison.ended()


class _Comparison:
    """The fold of one history, and what became of each event on the way."""

    def __init__(self, history: History) -> None:
        baseline, floor = history.baseline, history.floor
        self.verdict = ConsistencyVerdict(mirror=projection.row_of(baseline) if baseline is not None else None)
        self._history = history
        self._covered = baseline.observation_id if baseline is not None else 0
        # Up to here no event is looked for.
        self._silent = max(self._covered, floor.observation_id if floor is not None else 0)
        self._base = self.verdict.mirror.sequence if self.verdict.mirror is not None else 0
        self._base = max(self._base, floor.sequence if floor is not None else 0)
        self._told = 0
        self._top = self._base
        self._is_whole = True
        self._sequences: list[int] = []
        self._order: list[tuple[int, int, int]] = []
        self._renumbered: list[tuple[int, EventRow, EventRow]] = []
        self._missing: list[tuple[int, EventRow]] = []
        self._strange: list[EventRow] = []
        self._orphans: list[EventRow] = []

    def fold(self) -> None:
        """Go through the history, and hold each event against what its observation leads to."""
        rows = _Rows(row for row in self._history.events if not self._is_covered(row))
        for observation in self._history.observations:
            assert observation.id is not None
            if observation.id > self._covered:
                self._orphans += rows.before(observation.id)
                step = projection.step(self.verdict.mirror, observation)
                self.verdict.mirror = step.mirror
                self.verdict.observations += 1
                told = step.events if observation.id > self._silent else ()
                self._match(told, rows.before(observation.id + 1))
        self._orphans += rows.rest()

    def reunite(self) -> None:
        """Give rows that name another observation back to the events that they are, and tell what is left."""
        lost = {event.id: (place, event) for place, event in self._missing}
        for rows in (self._strange, self._orphans):
            for row in [each for each in rows if each.id in lost]:
                self._settle(*lost.pop(row.id), row)
                rows.remove(row)
        self._missing = [(place, event) for place, event in self._missing if event.id in lost]
        for row in (*self._strange, *self._orphans):
            self._sequences.append(row.sequence)
            self._note("event", "row", stored=row.type, event_id=row.id, mendable=False)
        if self._orphans:
            self._give_up([row.observation_id for row in self._orphans])

    def number(self) -> None:
        """Give numbers back that rows have lost, and find free ones for what is missing."""
        for place, event, row in self._renumbered:
            is_free = event.sequence not in self._sequences
            self._note(
                "event", "sequence", stored=row.sequence, folded=event.sequence, event_id=event.id, mendable=is_free
            )
            if is_free:
                self.verdict.altered[row.position] = _as_rebuilt(event, rebuilt_at(row))
            self._sequences.append(event.sequence if is_free else row.sequence)
            self._order.append((place, self._sequences[-1], row.position))
        used = sorted({self._base, *(number for number in self._sequences if number > self._base)})
        free = _free(used)
        for _place, event in self._missing:
            self.verdict.missing.append(_placed(event, next(free)))
            self._note("event", "row", folded=event.type, event_id=event.id)
        self._top = max([used[-1], *(event.sequence for event in self.verdict.missing)])
        if (gap := next(free)) < self._top:
            self._note("event", "sequence", folded=gap, mendable=False)

    def judge_order(self) -> None:
        """See that the feed told the events in the order of the reads."""
        for what, number in (("sequence", 1), ("position", 2)):
            numbers = [each[number] for each in sorted(self._order)]
            if numbers != sorted(numbers):
                self._note("event", what, stored="not in the order of the reads", mendable=False)

    def judge_mirror(self) -> None:
        """Hold the mirror's row against the fold."""
        live, folded = self._history.live, self.verdict.mirror
        if folded is not None:
            folded.sequence = self._top
        if live is None or folded is None:
            if live is not None:
                self._note("mirror", "row", stored=live.status, mendable=False)
            elif folded is not None:
                self._note("mirror", "row", folded=folded.status)
            return
        before, after = (row.model_dump(exclude=set(projection.NOT_FOLDED)) for row in (live, folded))
        for each in differences(before, after):
            self._note("mirror", each.field, stored=each.before, folded=each.after)
        if live.observed_at > folded.observed_at and live.digest != folded.digest:
            self._give_up("the mirror is of a later read than the last that is there")

    def ended(self) -> ConsistencyVerdict:
        """Return the verdict. Of a history that is not whole nothing can be mended: what it amounts to is wrong."""
        if not self._is_whole:
            self.verdict.findings = [each.model_copy(update={"is_mendable": False}) for each in self.verdict.findings]
        return self.verdict

    def _is_covered(self, row: EventRow) -> bool:
        return row.observation_id <= self._silent and row.sequence <= self._base

    def _match(self, events: Iterable[EventRow], rows: list[EventRow]) -> None:
        for event in events:
            self._told += 1
            own = [row for row in rows if row.id == event.id] or [row for row in rows if row.type == event.type]
            if own:
                rows.remove(own[0])
                self._settle(self._told, event, own[0])
            else:
                self._missing.append((self._told, event))
        self._strange += rows

    def _settle(self, place: int, event: EventRow, row: EventRow) -> None:
        """Compare an event with the row that it is in the feed."""
        if row.sequence != event.sequence == _told_sequence(row):
            self._renumbered.append((place, event, row))
            return
        self._sequences.append(row.sequence)
        if rebuilt_at(row) is None:
            self._order.append((place, row.sequence, row.position))
        right = _as_rebuilt(_placed(event, row.sequence), rebuilt_at(row))
        found = list(differences(_facts(row), _facts(right)))
        for each in found:
            self._note("event", each.field, stored=each.before, folded=each.after, event_id=event.id)
        if found:
            self.verdict.altered[row.position] = right

    def _note(self, kind: Kind, what: str, *, mendable: bool = True, **values: Any) -> None:  # noqa: ANN401 - rows'
        self.verdict.findings.append(_finding(self._history, kind, what, mendable=mendable, **values))

    def _give_up(self, why: object) -> None:
        self._is_whole = False
        self._note("history", "observation", stored=why)


class _Rows:
    """Events in the order of their observations, handed out observation by observation."""

    def __init__(self, rows: Iterator[EventRow]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def before(self, observation_id: int) -> list[EventRow]:
        """Return those, not handed out yet, whose observation is an earlier one."""
        found = []
        while self._next is not None and self._next.observation_id < observation_id:
            found.append(self._next)
            self._next = next(self._rows, None)
        return found

    def rest(self) -> list[EventRow]:
        """Return all that were not handed out yet."""
        return [*([self._next] if self._next is not None else []), *self._rows]


def rebuilt(event: EventRow, at: str) -> EventRow:
    """Return an event as it is appended long after its read: marked as such."""
    return _as_rebuilt(event, at)


def _as_rebuilt(event: EventRow, at: Any) -> EventRow:  # noqa: ANN401 - as stored
    if at is None:
        return event
    # An operator asked for it: of a replay that had it read at first no more is said.
    said = {name: value for name, value in event.data["cause"].items() if name != "replay_id"}
    cause = {**said, "trigger": "operator", "rebuilt_at": at}
    return _copy(event, data={**event.data, "cause": cause})


def rebuilt_at(row: EventRow) -> Any:  # noqa: ANN401 - a row's data, which may be anything
    """Return the mark that an event bears which was appended long after its read; None without one."""
    return _part(row, "cause").get("rebuilt_at")


def _told_sequence(row: EventRow) -> Any:  # noqa: ANN401 - as above
    """Return the number that an event bears inside."""
    return _part(row, "connection").get("sequence")


def _part(row: EventRow, name: str) -> Mapping[str, Any]:
    data: object = row.data  # of a damaged row it may be anything
    part = data.get(name) if isinstance(data, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _placed(event: EventRow, sequence: int) -> EventRow:
    """Return an event at a place in its connection's sequence, which its connection tells, too."""
    if event.sequence == sequence:
        return event
    connection = {**event.data["connection"], "sequence": sequence}
    return _copy(event, sequence=sequence, data={**event.data, "connection": connection})


def _copy(event: EventRow, **values: Any) -> EventRow:  # noqa: ANN401 - columns
    return EventRow(**{**event.model_dump(exclude={"data"}), "data": event.data, **values})


def _facts(event: EventRow) -> dict[str, Any]:
    """Return what follows from an observation: all but the event's two numbers."""
    return {**event.model_dump(exclude={"position", "sequence", "data"}), "data": event.data}


def _free(used: list[int]) -> Iterator[int]:
    """Yield the numbers behind the first that are not among these, which are in order."""
    for number, following in pairwise(used):
        yield from range(number + 1, following)
    yield from count(used[-1] + 1)


def _finding(
    history: History,
    kind: Kind,
    what: str,
    *,
    mendable: bool = True,
    **values: Any,  # noqa: ANN401 - fields of the shape
) -> RebuildFinding:
    return RebuildFinding(connection_id=history.connection_id, kind=kind, field=what, is_mendable=mendable, **values)
