"""Webhook replay: one step requests reads of the connections that stored webhooks name, at a rate limit.

The replay only requests reads; workers read Meld and decide as for every read. So a replay cannot put the mirror back
to an older state. It requests nothing while many reads are due, so that live webhooks do not wait behind it.
"""

from sqlalchemy import func
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import circuit_breaker, reads
from schemas.replays import DEFAULT_RATE
from schemas.tables import ReadRequestRow, ReplayRow
from service.replay.selection import SCAN_SIZE, make_selection
from service.replay.step import ReplayStep

MAX_READY_READS = 100
"""While so many reads are due that no worker has leased, whatever requested them, a replay requests no more."""

RECHECK_SECONDS = 0.5
"""How often a replay that waits checks whether it may continue."""


def request_next_reads(database: Database, session: Session, row: ReplayRow) -> ReplayStep:
    """Request the next reads of a replay: those of one second at its rate, or one read at a lower rate."""
    room, waiting_for = _get_room(database, session)
    if not room:
        return ReplayStep(after=row.after, delay_seconds=RECHECK_SECONDS, waiting_for=waiting_for)
    rate = row.rate or DEFAULT_RATE
    scanned = make_selection(session, row).scan(session, row.after)
    selected = [each.connection_id for each in scanned if each.matches]
    chosen = selected[: min(room, max(int(rate), 1))]
    is_cut = len(chosen) < len(selected)
    passed = chosen if is_cut else [each.connection_id for each in scanned]
    return ReplayStep(
        after=passed[-1] if passed else row.after,
        count=len(chosen),
        is_last=len(scanned) < SCAN_SIZE and not is_cut,
        delay_seconds=len(chosen) / rate,
        connections_to_notify=tuple(reads.request_reads(database, session, chosen, "replay", replay_id=row.id)),
    )


def _get_room(database: Database, session: Session) -> tuple[int, str | None]:
    """Return how many reads may be requested now, and if none may, what has to happen first."""
    ready = _count_ready(database, session)
    circuit = circuit_breaker.get_open_circuit(session)
    if circuit is None:
        return MAX_READY_READS - ready, f"{MAX_READY_READS} reads or more are due. Is a worker running?"
    # A half-open circuit needs one read as a probe. If no other read is pending, the replay requests it.
    is_half_open = circuit.until <= session.exec(select(database.now())).one()
    return int(is_half_open and not ready), f"Reads of Meld are paused: {circuit.detail}."


def _count_ready(database: Database, session: Session) -> int:
    ready = select(ReadRequestRow.connection_id).where(reads.is_ready(database)).limit(MAX_READY_READS)
    return session.exec(select(func.count(col(ready.subquery().c.connection_id)))).one()
