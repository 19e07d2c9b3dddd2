"""Bulk import: add connections that were never read to the mirror from a page of Meld's list, in a few statements.

An item of the list is equal to an answer for a single connection, so an import costs one call for a whole page. The
rules are those of ``workers/refetch/commit.py``, for a connection that has no row and no webhook.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import insert, update
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.meld.connection import Snapshot
from schemas.tables import ConnectionRow, ReadRequestRow
from workers.refetch.decision import MirrorState, decide
from workers.refetch.follow_up_reads import request_follow_up_reads
from workers.refetch.lease import ReadLease
from workers.refetch.mirror_row import Reading, build_mirror_row, mirror_state
from workers.refetch.observe import Observed, record_observations

_INSERT = insert(ConnectionRow)


class BulkImport:
    """Imports connections that were never read, in the transaction of the caller."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    def __call__(
        self, session: Session, snapshots: Sequence[Snapshot], began_at: datetime, ended_at: datetime
    ) -> tuple[list[str], list[str]]:
        """Import the snapshots, except of connections that have a pending read: its webhook may be newer than the list.

        Args:
            session: A transaction that holds the row locks of all read requests that the snapshots name.
            snapshots: The items of the page whose connections are not in the mirror.
            began_at: When the request for the page began.
            ended_at: When the page was complete.

        Returns:
            The imported connections, and the connections whose workers must be notified after the commit.
        """
        page = {snapshot.id: snapshot for snapshot in snapshots}
        leases = self._complete_requests(session, page)
        if not leases:
            return [], []
        group = _stored_states(session, [page[lease.connection_id] for lease in leases])
        seen = [_observe(lease, Reading(page[lease.connection_id], began_at, ended_at), group) for lease in leases]
        notified: list[str] = []
        for one in seen:
            if one.decision.siblings or one.decision.is_contradicted:
                notified += request_follow_up_reads(self._database, session, one.lease, one.decision, is_pending=False)
        # A page may emit hundreds of events; the scheduler notifies the dispatchers for them, within a second.
        record_observations(self._database, session, seen)
        session.connection().execute(_INSERT, [one.mirror.model_dump() for one in seen])
        return [lease.connection_id for lease in leases], notified

    def _complete_requests(self, session: Session, ids: Collection[str]) -> list[ReadLease]:
        """Request a read of each connection that has no pending one, and complete it in the same statement."""
        completed = (
            update(ReadRequestRow)
            .where(
                col(ReadRequestRow.connection_id).in_(ids),
                col(ReadRequestRow.requested) == col(ReadRequestRow.completed),
            )
            .values(
                requested=ReadRequestRow.requested + 1,
                completed=ReadRequestRow.requested + 1,
                trigger="reconcile",
                depth=0,
                rechecks=0,
                attempts=0,
                due_at=None,
                failed_at=None,
                error=None,
                replay_id=None,
            )
            .returning(col(ReadRequestRow.connection_id), col(ReadRequestRow.requested))
        )
        return [
            _reconcile_lease(connection_id, generation) for connection_id, generation in sorted(session.exec(completed))
        ]


def _reconcile_lease(connection_id: str, generation: int) -> ReadLease:
    return ReadLease(
        connection_id=connection_id,
        token="",
        generation=generation,
        attempts=1,
        is_dead=False,
        is_probe=False,
        trigger="reconcile",
        depth=0,
        error=None,
        webhooks=(),
    )


def _stored_states(session: Session, snapshots: Sequence[Snapshot]) -> dict[str, MirrorState]:
    """Return the stored view of every connection that the snapshots name."""
    named = {id_ for snapshot in snapshots for id_ in (*snapshot.duplicate_ids, snapshot.primary_duplicate_id) if id_}
    if not named:
        return {}
    return {
        row.id: mirror_state(row) for row in session.exec(select(ConnectionRow).where(col(ConnectionRow.id).in_(named)))
    }


def _observe(lease: ReadLease, reading: Reading, group: dict[str, MirrorState]) -> Observed:
    """Decide what a listed connection means for the stored group, and add it to the group."""
    mirror = build_mirror_row(lease.connection_id, "", None, reading)
    state = mirror_state(mirror)
    decision = decide(None, state, group, None)
    group[state.id] = state
    # A member that is not stored yet may be another item of the list.
    known = replace(
        decision, siblings=decision.siblings & group.keys(), one_way_siblings=decision.one_way_siblings & group.keys()
    )
    return Observed(lease, reading, mirror, known)
