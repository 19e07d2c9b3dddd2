"""Adopt: connections that were never seen, taken into the mirror from a page of Meld's list, all in a few statements.

A list says as much of a connection as a read does; so a backfill costs one call for a whole page. The rules are those
of ``workers/apply.py``, for a connection that has no row and no webhook.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import insert, update
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.meld import Snapshot
from schemas.tables import Connection, Job
from workers.claim import Claim
from workers.decide import State, decide
from workers.follow import follow
from workers.mirror import Reading, mirror_of, state_of
from workers.tell import Seen, tell

_FIRST = insert(Connection)


class Adopt:
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
        tell(self._database, session, seen)
        session.connection().execute(_FIRST, [one.mirror.model_dump() for one in seen])
        return [claim.connection_id for claim in claims], calls

    def _claim(self, session: Session, ids: Collection[str]) -> list[Claim]:
        """Ask for a read of each connection that owes none, and settle it: nobody else ever sees that it was owed."""
        settled = (
            update(Job)
            .where(col(Job.connection_id).in_(ids), col(Job.requested) == col(Job.completed))
            .values(
                requested=Job.requested + 1,
                completed=Job.requested + 1,
                trigger="reconcile",
                depth=0,
                rechecks=0,
                attempts=0,
                due_at=None,
                failed_at=None,
                error=None,
                replay_id=None,
            )
            .returning(col(Job.connection_id), col(Job.requested))
        )
        return [_claim_of(connection_id, generation) for connection_id, generation in sorted(session.exec(settled))]


def _claim_of(connection_id: str, generation: int) -> Claim:
    return Claim(
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


def _known(session: Session, snapshots: Sequence[Snapshot]) -> dict[str, State]:
    """Return the stored view of every connection that the snapshots name."""
    named = {id_ for snapshot in snapshots for id_ in (*snapshot.duplicate_ids, snapshot.primary_duplicate_id) if id_}
    if not named:
        return {}
    return {row.id: state_of(row) for row in session.exec(select(Connection).where(col(Connection.id).in_(named)))}


def _see(claim: Claim, reading: Reading, group: dict[str, State]) -> Seen:
    """Decide what a listed connection means, beside those that are known; from now on it is one of them."""
    mirror = mirror_of(claim.connection_id, "", None, reading)
    state = state_of(mirror)
    decision = decide(None, state, group, None)
    group[state.id] = state
    # Who is not known yet may be on its way: the list's other items are.
    known = replace(decision, siblings=decision.siblings & group.keys(), strangers=decision.strangers & group.keys())
    return Seen(claim, reading, mirror, known)
