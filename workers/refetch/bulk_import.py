"""Adopt: connections that were never seen, taken into the mirror from a page of Meld's list, all in a few statements.

A list says as much of a connection as a read does; so a backfill costs one call for a whole page. The rules are those
of ``workers/refetch/commit.py``, for a connection that has no row and no webhook.
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
from workers.refetch.follow_up_reads import follow
from workers.refetch.lease import ReadLease
from workers.refetch.mirror_row import Reading, mirror_of, state_of
from workers.refetch.observe import Observed, record_observations

_FIRST = insert(ConnectionRow)


class BulkImport:
    """Takes never-seen connections into the mirror, in the transaction of the caller."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    def __call__(
        self, session: Session, snapshots: Sequence[Snapshot], began_at: datetime, ended_at: datetime
    ) -> tuple[list[str], list[str]]:
        """Take in each snapshot whose connection nobody is at; return the ids adopted, and the workers to call.

        The caller holds the locks of all jobs that the snapshots name. A connection whose read is owed already is
        left to that: its webhook may be younger than the list.
        """
        page = {snapshot.id: snapshot for snapshot in snapshots}
        claims = self._claim(session, page)
        if not claims:
            return [], []
        group = _known(session, [page[claim.connection_id] for claim in claims])
        seen = [_see(claim, Reading(page[claim.connection_id], began_at, ended_at), group) for claim in claims]
        calls: list[str] = []
        for one in seen:
            if one.decision.siblings or one.decision.is_contradicted:
                calls += follow(self._database, session, one.claim, one.decision, is_owed=False)
        # A page may emit hundreds of events; the clock calls for their pushes, within a second.
        record_observations(self._database, session, seen)
        session.connection().execute(_FIRST, [one.mirror.model_dump() for one in seen])
        return [claim.connection_id for claim in claims], calls

    def _claim(self, session: Session, ids: Collection[str]) -> list[ReadLease]:
        """Ask for a read of each connection that owes none, and settle it: nobody else ever sees that it was owed."""
        settled = (
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
        return [_claim_of(connection_id, generation) for connection_id, generation in sorted(session.exec(settled))]


def _claim_of(connection_id: str, generation: int) -> ReadLease:
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


def _known(session: Session, snapshots: Sequence[Snapshot]) -> dict[str, MirrorState]:
    """Return the stored view of every connection that the snapshots name."""
    named = {id_ for snapshot in snapshots for id_ in (*snapshot.duplicate_ids, snapshot.primary_duplicate_id) if id_}
    if not named:
        return {}
    return {
        row.id: state_of(row) for row in session.exec(select(ConnectionRow).where(col(ConnectionRow.id).in_(named)))
    }


def _see(claim: ReadLease, reading: Reading, group: dict[str, MirrorState]) -> Observed:
    """Decide what a listed connection means, beside those that are known; from now on it is one of them."""
    mirror = mirror_of(claim.connection_id, "", None, reading)
    state = state_of(mirror)
    decision = decide(None, state, group, None)
    group[state.id] = state
    # Who is not known yet may be on its way: the list's other items are.
    known = replace(decision, siblings=decision.siblings & group.keys(), strangers=decision.strangers & group.keys())
    return Observed(claim, reading, mirror, known)
