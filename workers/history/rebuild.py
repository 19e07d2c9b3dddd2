"""Rebuild: the conductor of looking back. Each connection's history is folded again and held against its rows.

It may run beside everything else. A check sees each connection as it was at one moment, and locks nothing. What is
mended is looked at once more, under the lock of its job and with its claim taken away: a read that is under way is
thrown away by the fence and done again, since it decided on what is being mended.
"""

from collections.abc import Callable, Iterable, Iterator

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from runtime import audit
from runtime.clock import Clock
from runtime.database import Database
from runtime.queues import reads
from schemas.rebuild_report import RebuildFinding
from schemas.tables import ConnectionRow, EventRow
from workers.events.append import append
from workers.history.consistency import ConsistencyVerdict, check, rebuilt
from workers.history.projection import NOT_FOLDED
from workers.history.reader import between, chunk_end, histories, only
from workers.refetch.lease import take_away

CHUNK = 500
"""Connections in one snapshot: what keeps it short."""

Progress = Callable[[int], None]
"""Told how many observations have been folded so far."""


class Rebuild:
    """Compares mirror and feed with the fold of the observations, and mends them.

    Args:
        database: The database.
        clock: The present, for the mark that an appended event bears.
        chunk: How many connections one snapshot of the database covers.
    """

    def __init__(self, *, database: Database, clock: Clock, chunk: int = CHUNK) -> None:
        self._database = database
        self._clock = clock
        self._chunk = chunk

    def check(self, progress: Progress) -> Iterator[RebuildFinding]:
        """Yield everything in which rows differ from the fold; write nothing."""
        for found in self._chunks(progress):
            for findings in found:
                yield from findings

    def apply(self, progress: Progress, *, who: str) -> Iterator[RebuildFinding]:
        """Mend what can be, each connection in a transaction of its own; yield everything that was found.

        What could not be mended is looked at once more at the end: it may have hung on another connection.

        Args:
            progress: Told how many observations have been folded so far.
            who: The operator.
        """
        left: list[str] = []
        is_begun = False
        for found in self._chunks(progress):
            if found and not is_begun:
                self._note_run(who)
                is_begun = True
            for connection_id in [findings[0].connection_id for findings in found]:
                findings = self._mend(connection_id, who)
                yield from (each for each in findings if each.is_mended)
                if any(not each.is_mended for each in findings):
                    left.append(connection_id)
        for connection_id in left:
            yield from self._mend(connection_id, who)

    def _chunks(self, progress: Progress) -> Iterator[list[list[RebuildFinding]]]:
        """Yield, a chunk at a time, what was found at each connection where anything was."""
        after: str | None = ""
        observations = 0
        while after is not None:
            found = []
            with self._database.snapshot() as session:
                until = chunk_end(session, after, self._chunk)
                for history in histories(session, between(after, until)):
                    verdict = check(history)
                    observations += verdict.observations
                    if verdict.findings:
                        found.append(verdict.findings)
            after = until
            progress(observations)
            yield found

    def _mend(self, connection_id: str, who: str) -> list[RebuildFinding]:
        """Mend a connection; return what was found, under the locks, and whether it was mended."""
        verdict = ConsistencyVerdict()
        try:
            with self._database.write() as session:
                reads.lock(self._database, session, [connection_id])
                verdict = next(map(check, histories(session, only(connection_id))), ConsistencyVerdict())
                if verdict.is_mendable:
                    take_away(session, connection_id)
                    self._write(session, connection_id, verdict)
                    self._note(session, connection_id, verdict, who)
        except IntegrityError:
            # What should be there stands in the way of itself: only somebody who knows can mend that.
            return [each.model_copy(update={"is_mendable": False}) for each in verdict.findings]
        return [each.model_copy(update={"is_mended": each.is_mendable}) for each in verdict.findings]

    def _note_run(self, who: str) -> None:
        with self._database.write() as session:
            audit.note(self._database, session, who=who, act="rebuild.applied")

    def _note(self, session: Session, connection_id: str, verdict: ConsistencyVerdict, who: str) -> None:
        mended = sorted({f"{each.kind} {each.field}" for each in verdict.findings if each.is_mendable})
        audit.note(
            self._database,
            session,
            who=who,
            act="connection.mended",
            connection_id=connection_id,
            details={"mended": mended},
        )

    def _write(self, session: Session, connection_id: str, verdict: ConsistencyVerdict) -> None:
        """Write what mends a connection. Nothing is removed, and no event gets another number."""
        if verdict.mirror is not None:
            _restore(session, connection_id, verdict.mirror)
        altered = {**verdict.altered, **_strays(session, verdict.missing)}
        for position, event in altered.items():
            values = event.model_dump(exclude={"position"})
            session.exec(update(EventRow).where(col(EventRow.position) == position).values(**values))
        there = {event.id for event in altered.values()}
        at = self._clock().isoformat().replace("+00:00", "Z")
        append(self._database, session, [rebuilt(event, at) for event in verdict.missing if event.id not in there])


def _restore(session: Session, connection_id: str, mirror: ConnectionRow) -> None:
    """Make the mirror's row what it should be; when it was last read stays, since no observation says that."""
    live = session.get(ConnectionRow, connection_id)
    if live is None:
        session.add(mirror)
        return
    for name, value in mirror.model_dump(exclude=set(NOT_FOLDED)).items():
        setattr(live, name, value)


def _strays(session: Session, missing: Iterable[EventRow]) -> dict[int, EventRow]:
    """Return the missing events that are there under another connection's name, by their positions."""
    wanted = {event.id: event for event in missing}
    rows = session.exec(select(EventRow.position, EventRow.id).where(col(EventRow.id).in_(wanted))).all()
    return {position: wanted[id_] for position, id_ in rows}
