"""Rebuild: checks mirror and feed against the replay of the observations, and repairs what differs (drift).

It may run beside a working service. A check reads each connection as of one moment and locks nothing. A repair checks
the connection once more, under the lock of its read request, and revokes its read lease: a read in progress decided on
the damaged rows, so the fencing token makes the worker discard and repeat it.
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
from workers.history.consistency import ConsistencyVerdict, check_consistency, mark_rebuilt
from workers.history.projection import UNPROJECTED_COLUMNS
from workers.history.reader import connections_between, find_chunk_end, only_connection, read_histories
from workers.refetch.lease import revoke_lease

CHUNK_CONNECTIONS = 500
"""Connections in one database snapshot, which keeps each snapshot short."""

Progress = Callable[[int], None]
"""Called with the number of observations projected so far."""


class Rebuild:
    """Compares mirror and feed with the projection of the observations, and repairs them.

    Args:
        database: The database.
        clock: Returns the present, for the mark of appended events.
        chunk: How many connections one snapshot of the database covers.
    """

    def __init__(self, *, database: Database, clock: Clock, chunk: int = CHUNK_CONNECTIONS) -> None:
        self._database = database
        self._clock = clock
        self._chunk = chunk

    def check(self, progress: Progress) -> Iterator[RebuildFinding]:
        """Yield every difference between rows and projection; write nothing."""
        for found in self._check_chunks(progress):
            for findings in found:
                yield from findings

    def repair(self, progress: Progress, *, who: str) -> Iterator[RebuildFinding]:
        """Repair each connection in a transaction of its own; yield every difference that was found.

        Connections that could not be repaired are tried once more at the end: they may depend on another connection.

        Args:
            progress: Called with the number of observations projected so far.
            who: The operator, for the audit log.
        """
        unrepaired: list[str] = []
        is_audited = False
        for found in self._check_chunks(progress):
            if found and not is_audited:
                self._audit_run(who)
                is_audited = True
            for connection_id in [findings[0].connection_id for findings in found]:
                findings = self._repair_connection(connection_id, who)
                yield from (each for each in findings if each.is_mended)
                if any(not each.is_mended for each in findings):
                    unrepaired.append(connection_id)
        for connection_id in unrepaired:
            yield from self._repair_connection(connection_id, who)

    def _check_chunks(self, progress: Progress) -> Iterator[list[list[RebuildFinding]]]:
        """Yield, for each chunk, the findings of each connection that has any."""
        after: str | None = ""
        observations = 0
        while after is not None:
            found = []
            with self._database.snapshot() as session:
                until = find_chunk_end(session, after, self._chunk)
                for history in read_histories(session, connections_between(after, until)):
                    verdict = check_consistency(history)
                    observations += verdict.observations
                    if verdict.findings:
                        found.append(verdict.findings)
            after = until
            progress(observations)
            yield found

    def _repair_connection(self, connection_id: str, who: str) -> list[RebuildFinding]:
        """Check a connection under its lock and repair it; return the findings, marked as repaired or not."""
        verdict = ConsistencyVerdict()
        try:
            with self._database.write() as session:
                reads.lock_requests(self._database, session, [connection_id])
                verdict = next(
                    map(check_consistency, read_histories(session, only_connection(connection_id))),
                    ConsistencyVerdict(),
                )
                if verdict.is_repairable:
                    revoke_lease(session, connection_id)
                    self._write_repair(session, connection_id, verdict)
                    self._audit_repair(session, connection_id, verdict, who)
        except IntegrityError:
            # A row that should be written violates a unique constraint: an operator has to look at it.
            return [each.model_copy(update={"is_mendable": False}) for each in verdict.findings]
        return [each.model_copy(update={"is_mended": each.is_mendable}) for each in verdict.findings]

    def _audit_run(self, who: str) -> None:
        with self._database.write() as session:
            audit.append_entry(self._database, session, who=who, act="rebuild.applied")

    def _audit_repair(self, session: Session, connection_id: str, verdict: ConsistencyVerdict, who: str) -> None:
        mended = sorted({f"{each.kind} {each.field}" for each in verdict.findings if each.is_mendable})
        audit.append_entry(
            self._database,
            session,
            who=who,
            act="connection.mended",
            connection_id=connection_id,
            details={"mended": mended},
        )

    def _write_repair(self, session: Session, connection_id: str, verdict: ConsistencyVerdict) -> None:
        """Write the repaired rows. No row is removed."""
        if verdict.mirror is not None:
            _restore_mirror(session, connection_id, verdict.mirror)
        altered = {**verdict.altered, **_find_misfiled(session, verdict.missing)}
        for position, event in altered.items():
            values = event.model_dump(exclude={"position"})
            session.exec(update(EventRow).where(col(EventRow.position) == position).values(**values))
        present = {event.id for event in altered.values()}
        at = self._clock().isoformat().replace("+00:00", "Z")
        append(
            self._database, session, [mark_rebuilt(event, at) for event in verdict.missing if event.id not in present]
        )


def _restore_mirror(session: Session, connection_id: str, mirror: ConnectionRow) -> None:
    """Overwrite the mirror row, except the columns that do not follow from observations."""
    row = session.get(ConnectionRow, connection_id)
    if row is None:
        session.add(mirror)
        return
    for name, value in mirror.model_dump(exclude=set(UNPROJECTED_COLUMNS)).items():
        setattr(row, name, value)


def _find_misfiled(session: Session, missing: Iterable[EventRow]) -> dict[int, EventRow]:
    """Return the missing events whose row names another connection, by position."""
    wanted = {event.id: event for event in missing}
    rows = session.exec(select(EventRow.position, EventRow.id).where(col(EventRow.id).in_(wanted))).all()
    return {position: wanted[id_] for position, id_ in rows}
