"""Reread: a step of a replay of webhooks. The connections that they name are asked for, some at a time.

It asks for reads as everybody does, and writes nothing else: the truth is read anew, so nothing can be put back to what
it was. It adds to what is due only as long as that is little: who hears of live webhooks has to wait behind it.
"""

from sqlalchemy import func, or_
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import circuit_breaker, reads
from schemas.replays import DEFAULT_RATE
from schemas.tables import ReadRequestRow, ReplayRow
from service.replay.selection import LOOK, selection_of
from service.replay.step import ReplayStep

MOST_DUE = 100
"""Reads that are due and that nobody is at, whoever asked for them; while there are so many a replay asks for none."""

LOOK_SECONDS = 0.5
"""How often it is looked whether a replay that waits may go on."""


def reread(database: Database, session: Session, row: ReplayRow) -> ReplayStep:
    """Ask for the next reads of a replay: as many as belong in a second, or one at a low rate."""
    room, waits = _room(database, session)
    if not room:
        return ReplayStep(after=row.after, rest=LOOK_SECONDS, waits=waits)
    rate = row.rate or DEFAULT_RATE
    ahead = selection_of(session, row).ahead(session, row.after)
    chosen = [each.connection_id for each in ahead if each.amount]
    taken = chosen[: min(room, max(int(rate), 1))]
    is_cut = len(taken) < len(chosen)
    passed = taken if is_cut else [each.connection_id for each in ahead]
    return ReplayStep(
        after=passed[-1] if passed else row.after,
        count=len(taken),
        is_last=len(ahead) < LOOK and not is_cut,
        rest=len(taken) / rate,
        calls=tuple(reads.raise_jobs(database, session, taken, "replay", replay_id=row.id)),
    )


def _room(database: Database, session: Session) -> tuple[int, str | None]:
    """Return how many reads may be asked for now; where it is none, also what has to happen first."""
    due = _due(database, session)
    pause = circuit_breaker.current(session)
    if pause is None:
        return MOST_DUE - due, f"{MOST_DUE} reads or more are due. Is a worker running?"
    # When its time is up one read finds out whether it is over; where nobody else is owed any, it is ours.
    is_over = pause.until <= session.exec(select(database.now())).one()
    return int(is_over and not due), f"Reads of Meld are paused: {pause.detail}."


def _due(database: Database, session: Session) -> int:
    is_free = or_(col(ReadRequestRow.leased_until).is_(None), col(ReadRequestRow.leased_until) < database.now())
    due = select(ReadRequestRow.connection_id).where(
        col(ReadRequestRow.requested) > col(ReadRequestRow.completed),
        col(ReadRequestRow.due_at) <= database.now(),
        is_free,
    )
    return session.exec(select(func.count()).select_from(due.limit(MOST_DUE).subquery())).one()
