"""Follow: which reads a read leads to, its own connection's and its siblings'. Bounded, whatever Meld answers.

A read that finds another group raises the members whose stored view does not fit. A read that finds the group it knew,
but a member or the newest hint that does not fit, cannot tell who is behind: both are read again, some time later. So
is one that finds members which do not name it: read too early, they would name nobody who has them read once more.
And a read that comes close behind webhooks which it cannot be checked against is followed by one more, for Meld's API
may lag: behind one that names no status, or several that name different ones. Where one of them names a status that no
read has shown, the members are read too: what it was about may have been undone here, and not there. Those that owe
nothing are raised, one level deeper as siblings are; for the others the connection is rechecked, and looks again.

The bound: a wish from outside has depth 0, one of a sibling is one deeper, and none goes deeper than ``MAX_DEPTH``;
each lets a connection be rechecked ``len(RECHECK_SECONDS)`` times. With R = 2 + that number, a wish in a group of n
costs at most R * sum of (R * (n - 1)) ** depth reads for depth 0 to MAX_DEPTH; usually one for each member.
"""

from sqlalchemy import and_, not_, or_, update
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import reads
from schemas.tables import ReadRequestRow
from workers.refetch.decision import Decision
from workers.refetch.lease import ReadLease

MAX_DEPTH = 2
"""The connection that a wish from outside is for, the members that it names, and those that only they name."""

RECHECK_SECONDS = (5.0, 30.0, 120.0, 600.0)
"""When who disagrees is read again: Meld's API may be behind Meld's webhooks, and one member behind another."""

REST_SECONDS = 2 * sum(RECHECK_SECONDS)
"""A connection that nobody has asked for so long has its rechecks anew."""

SETTLE_SECONDS = 30.0
"""How long after a webhook Meld's API may still be behind it. One that names no status cannot be checked against the
read. Nor can the newest of two that name different ones: what it names may be how it was before both, and the read as
old. A read that comes sooner than this is followed by one that does not."""


def follow(
    database: Database,
    session: Session,
    claim: ReadLease,
    decision: Decision,
    *,
    is_owed: bool,
    is_early: bool = False,
    unread: frozenset[str] = frozenset(),
) -> list[str]:
    """Raise what a read leads to, and return the connections whose workers should be called after the commit.

    Args:
        database: The database.
        session: An open transaction that holds the locks of all jobs of the group.
        claim: The claim of the read; its job is completed already.
        decision: What the read means.
        is_owed: Whether the connection's next read is owed already.
        is_early: Whether the read needs to be confirmed by a later one.
        unread: Members of the group that must be read, although they agree with what was read.
    """
    calls: list[str] = []
    may_raise = decision.is_regrouped and claim.depth < MAX_DEPTH
    strangers = set(decision.strangers)
    siblings = _not_about_to_be_read(database, session, decision.siblings - strangers) | strangers
    if may_raise:
        calls += reads.request_reads(database, session, siblings, "sibling", depth=claim.depth + 1)
    # Each webhook leads to one such read of a member. At the deepest level it has nobody else read.
    calls += reads.request_reads(database, session, _not_waiting(database, session, unread), "sibling", depth=MAX_DEPTH)
    # Who names it looks at it when read. Of the others nothing may come back, should they be read too early.
    unsettled = strangers if may_raise else siblings
    if is_owed:
        # Its next read finds the group as it is known by then, and has nothing to tell the others any more.
        if unsettled:
            _recheck(database, session, claim, unsettled)
        session.exec(
            update(ReadRequestRow)
            .where(col(ReadRequestRow.connection_id) == claim.connection_id)
            .values(woken_at=database.now())
        )
        return [*calls, claim.connection_id]
    if decision.is_contradicted or unsettled:
        _recheck(database, session, claim, unsettled)
    elif is_early:
        # At the deepest level, for a job that waits keeps its depth: reads that siblings wish for meanwhile would share
        # it, and begin at the top each time.
        reads.request_reads(database, session, [claim.connection_id], "recheck", due_in=SETTLE_SECONDS, depth=MAX_DEPTH)
    return calls


def _not_waiting(database: Database, session: Session, ids: frozenset[str]) -> set[str]:
    """Leave out connections whose read is due and has not begun, and those that were given up.

    A read that has begun may be too early. A connection that was given up stays so until something is heard of it.
    """
    if not ids:
        return set()
    left = select(ReadRequestRow.connection_id).where(
        col(ReadRequestRow.connection_id).in_(ids),
        col(ReadRequestRow.failed_at).is_(None),
        not_(reads.is_ready(database)),
    )
    return set(session.exec(left).all())


def _not_about_to_be_read(database: Database, session: Session, ids: frozenset[str]) -> set[str]:
    """Leave out whose read is under way or due now: when it is settled, that connection looks at its group itself.

    But not who is at its last recheck: should that have come too early, nobody would take it up.
    """
    if not ids:
        return set()
    is_leased = not_(reads.is_free(database))
    is_last = and_(col(ReadRequestRow.trigger) == "recheck", col(ReadRequestRow.rechecks) >= len(RECHECK_SECONDS))
    is_next = and_(
        col(ReadRequestRow.requested) > col(ReadRequestRow.completed),
        not_(is_last),
        or_(is_leased, col(ReadRequestRow.due_at) <= database.now()),
    )
    about_to_be = select(ReadRequestRow.connection_id).where(col(ReadRequestRow.connection_id).in_(ids), is_next)
    return set(ids) - set(session.exec(about_to_be).all())


def _recheck(database: Database, session: Session, claim: ReadLease, unsettled: set[str]) -> None:
    """Have the connection, and the members that it disagrees with, read again, as long as each has rechecks left.

    Members whose read is owed already are left alone: many that disagree with one would use up its rechecks at once.
    Members that have rested for longer than any quarrel lasts have all of theirs again.
    """
    has_rested = col(ReadRequestRow.requested_at) < database.now(-REST_SECONDS)
    rested = update(ReadRequestRow).where(
        col(ReadRequestRow.connection_id).in_(unsettled), col(ReadRequestRow.requested) == col(ReadRequestRow.completed)
    )
    session.exec(rested.where(has_rested).values(rechecks=0))
    left = select(ReadRequestRow.connection_id).where(
        col(ReadRequestRow.connection_id).in_({claim.connection_id, *unsettled}),
        col(ReadRequestRow.requested) == col(ReadRequestRow.completed),
        col(ReadRequestRow.rechecks) < len(RECHECK_SECONDS),
    )
    ids = session.exec(left).all()
    rechecks = session.exec(
        select(ReadRequestRow.rechecks).where(ReadRequestRow.connection_id == claim.connection_id)
    ).one()
    due_in = RECHECK_SECONDS[min(rechecks, len(RECHECK_SECONDS) - 1)]
    depth = min(claim.depth + 1, MAX_DEPTH) if unsettled else claim.depth
    reads.request_reads(database, session, ids, "recheck", due_in=due_in, depth=depth)
    session.exec(
        update(ReadRequestRow)
        .where(col(ReadRequestRow.connection_id).in_(ids))
        .values(rechecks=ReadRequestRow.rechecks + 1)
    )
