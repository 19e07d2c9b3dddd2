"""Follow-up reads: which reads a read leads to (siblings, rechecks, confirming read), and why they end.

A read that finds another group than was stored requests reads of the members whose stored view disagrees. A read that
finds its group unchanged, but disagrees with a member or with the newest hint, cannot know which side is behind: both
are read again later. So is a connection with a member that does not name it: that member, read too early, would lead
back to nobody. A read that begins soon after a webhook is followed by a confirming one, because Meld's API may lag.
Members are also read if a change of the connection was undone between two reads: it may have left its mark on them.

The bound: a request from outside has depth 0, one of a sibling is one deeper, and none is deeper than ``MAX_DEPTH``;
each allows ``len(RECHECK_SECONDS)`` rechecks of its connection. With R = 2 + that number, a request in a group of n
costs at most R * sum of (R * (n - 1)) ** depth reads for depth 0 to MAX_DEPTH; normally one for each member.
"""

from sqlalchemy import ColumnElement, and_, not_, or_, update
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import reads
from schemas.tables import ReadRequestRow
from workers.refetch.decision import Decision
from workers.refetch.lease import ReadLease
from workers.refetch.recheck_delays import MAX_API_LAG_SECONDS, RECHECK_RESET_SECONDS, RECHECK_SECONDS

MAX_DEPTH = 2
"""Depth 0 is the connection that a request from outside names, 1 the members that it names, 2 those they name."""


def request_follow_up_reads(
    database: Database,
    session: Session,
    lease: ReadLease,
    decision: Decision,
    *,
    is_pending: bool,
    needs_confirming_read: bool = False,
    unread_members: frozenset[str] = frozenset(),
) -> list[str]:
    """Request the reads that a read leads to.

    Args:
        database: The database.
        session: An open transaction that holds the row locks of all read requests of the group.
        lease: The lease of the read, whose request is completed already.
        decision: What the read means.
        is_pending: Whether another read of the connection was requested meanwhile.
        needs_confirming_read: Whether the read began too soon after a webhook.
        unread_members: Members to read although their stored view agrees.

    Returns:
        The connections whose workers must be notified after the commit.
    """
    notified: list[str] = []
    requests_siblings = decision.is_group_changed and lease.depth < MAX_DEPTH
    one_way = set(decision.one_way_siblings)
    siblings = _without_reads_in_progress(database, session, decision.siblings - one_way) | one_way
    if requests_siblings:
        notified += reads.request_reads(database, session, siblings, "sibling", depth=lease.depth + 1)
    # Each webhook leads to one such read of a member. At the greatest depth that read requests no siblings.
    late = _without_reads_to_come(database, session, unread_members)
    notified += reads.request_reads(database, session, late, "sibling", depth=MAX_DEPTH)
    # A sibling that names the connection compares itself with it when read. The others, read too early, would not.
    to_recheck = one_way if requests_siblings else siblings
    if is_pending:
        # The pending read will find the group unchanged, and then requests no reads of the siblings.
        if to_recheck:
            _recheck(database, session, lease, to_recheck)
        own = update(ReadRequestRow).where(col(ReadRequestRow.connection_id) == lease.connection_id)
        session.exec(own.values(woken_at=database.now()))
        return [*notified, lease.connection_id]
    if decision.is_contradicted or to_recheck:
        _recheck(database, session, lease, to_recheck)
    elif needs_confirming_read:
        # At the greatest depth, because a pending request keeps its depth: siblings that share the confirming read
        # would otherwise begin at depth 0 each time.
        own_id = [lease.connection_id]
        reads.request_reads(database, session, own_id, "recheck", due_in=MAX_API_LAG_SECONDS, depth=MAX_DEPTH)
    return notified


def _without_reads_to_come(database: Database, session: Session, ids: frozenset[str]) -> set[str]:
    """Leave out connections whose read is due and has not begun, and those that were given up.

    A read in progress may have begun too early. A connection that was given up stays so until a request from outside.
    """
    is_alive = col(ReadRequestRow.failed_at).is_(None)
    return _select(session, ids, is_alive, not_(reads.is_ready(database)))


def _without_reads_in_progress(database: Database, session: Session, ids: frozenset[str]) -> set[str]:
    """Leave out connections that are being read or are due: that read compares the group when it is committed.

    A connection at its last recheck is not left out: if that read is too early, nobody would request another.
    """
    is_last = and_(col(ReadRequestRow.trigger) == "recheck", col(ReadRequestRow.rechecks) >= len(RECHECK_SECONDS))
    is_in_progress = and_(reads.is_pending(), not_(reads.is_free(database)))
    is_next = and_(or_(is_in_progress, reads.is_due(database)), not_(is_last))
    return set(ids) - _select(session, ids, is_next)


def _select(session: Session, ids: frozenset[str], *conditions: ColumnElement[bool]) -> set[str]:
    if not ids:
        return set()
    mine = col(ReadRequestRow.connection_id).in_(ids)
    return set(session.exec(select(ReadRequestRow.connection_id).where(mine, *conditions)).all())


def _recheck(database: Database, session: Session, lease: ReadLease, members: set[str]) -> None:
    """Request a later read of the connection and of the members that disagree, if they have rechecks left.

    A connection with a pending read is left out: many that disagree with one would use up its rechecks at once.
    """
    is_idle = not_(reads.is_pending())
    is_reset = col(ReadRequestRow.requested_at) < database.now(-RECHECK_RESET_SECONDS)
    idle_members = update(ReadRequestRow).where(col(ReadRequestRow.connection_id).in_(members), is_idle)
    session.exec(idle_members.where(is_reset).values(rechecks=0))
    group = frozenset({lease.connection_id, *members})
    ids = _select(session, group, is_idle, col(ReadRequestRow.rechecks) < len(RECHECK_SECONDS))
    own = select(ReadRequestRow.rechecks).where(ReadRequestRow.connection_id == lease.connection_id)
    due_in = RECHECK_SECONDS[min(session.exec(own).one(), len(RECHECK_SECONDS) - 1)]
    depth = min(lease.depth + 1, MAX_DEPTH) if members else lease.depth
    reads.request_reads(database, session, ids, "recheck", due_in=due_in, depth=depth)
    rechecked = update(ReadRequestRow).where(col(ReadRequestRow.connection_id).in_(ids))
    session.exec(rechecked.values(rechecks=ReadRequestRow.rechecks + 1))
