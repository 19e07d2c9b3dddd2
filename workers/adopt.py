"""Adopt: connections that were never seen, taken into the mirror from a page of Meld's list, each under a claim.

A list says as much of a connection as a read does; so a backfill costs one call for a whole page.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from sqlalchemy import update
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.meld import Snapshot
from schemas.tables import Job
from workers.apply import apply
from workers.claim import Claim
from workers.mirror import Reading

LEASE_SECONDS = 60.0
"""Claims of a page are settled in the transaction that makes them; nobody else ever sees one."""


class Adopt:
    """Takes never-seen connections into the mirror, in the transaction of the caller.

    Args:
        database: The database.
        token: Makes the fence's token, never the same twice.
    """

    def __init__(self, *, database: Database, token: Callable[[], str]) -> None:
        self._database = database
        self._token = token

    def __call__(
        self, session: Session, snapshots: Sequence[Snapshot], began_at: datetime, ended_at: datetime
    ) -> tuple[list[str], list[str]]:
        """Apply each snapshot whose connection nobody is at; return the ids adopted, and the workers to call.

        The caller holds the locks of all jobs that the snapshots name. A connection whose read is owed already is
        left to that: its webhook may be younger than the list.
        """
        page = {snapshot.id: snapshot for snapshot in snapshots}
        adopted: list[str] = []
        calls: list[str] = []
        for connection_id in self._free(session, page):
            claim = self._claim(session, connection_id)
            reading = Reading(page[connection_id], began_at, ended_at, is_listed=True)
            # A page may emit hundreds of events; the clock calls for their pushes, within a second.
            calls += apply(self._database, session, claim, reading).calls
            adopted.append(connection_id)
        return adopted, calls

    def _free(self, session: Session, ids: Collection[str]) -> list[str]:
        idle = select(Job.connection_id).where(col(Job.connection_id).in_(ids), Job.requested == Job.completed)
        return sorted(session.exec(idle).all())

    def _claim(self, session: Session, connection_id: str) -> Claim:
        token = self._token()
        lease = (
            update(Job)
            .where(col(Job.connection_id) == connection_id)
            .values(
                requested=Job.requested + 1,
                trigger="reconcile",
                depth=0,
                rechecks=0,
                lease_token=token,
                leased_until=self._database.now(LEASE_SECONDS),
            )
            .returning(col(Job.requested))
        )
        return Claim(
            connection_id=connection_id,
            token=token,
            generation=session.exec(lease).scalar_one(),
            attempts=1,
            is_dead=False,
            is_probe=False,
            trigger="reconcile",
            depth=0,
            error=None,
            webhooks=(),
        )
