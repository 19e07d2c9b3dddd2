"""Recall: a connection as the mirror had it at a time, folded from what was kept."""

from collections import deque
from datetime import datetime
from itertools import takewhile

from sqlmodel import Session

from runtime.errors import UsageError
from schemas.tables import ConnectionRow
from workers.history.projection import views
from workers.history.reader import histories, only


def recall(session: Session, connection_id: str, at: datetime) -> ConnectionRow:
    """Return the mirror's row after the last read that had its answer by then; it says nothing of later checks.

    Raises:
        UsageError: Where the connection was not known then, or where that is no longer kept.
    """
    history = next(histories(session, only(connection_id)), None)
    if history is None:
        raise UsageError(f"No connection {connection_id[:100]!r} is known.")
    baseline = history.baseline
    if baseline is not None and at < baseline.ended_at:
        raise UsageError(f"What was before {_iso(baseline.ended_at)} is no longer kept.")
    kept = takewhile(lambda each: each.ended_at <= at, history.observations)
    (row,) = deque(views(baseline, kept), maxlen=1)
    if row is None:
        raise UsageError(f"The connection {connection_id[:100]!r} was not known at {_iso(at)}.")
    return row


def _iso(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
