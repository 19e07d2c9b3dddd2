"""Point-in-time state ("as of"): a connection's mirror row at an earlier time, projected from its observations."""

from collections import deque
from datetime import datetime
from itertools import takewhile

from sqlmodel import Session

from runtime.errors import UsageError
from schemas.tables import ConnectionRow
from workers.history.projection import project_mirrors
from workers.history.reader import only_connection, read_histories


def mirror_as_of(session: Session, connection_id: str, at: datetime) -> ConnectionRow:
    """Return the mirror row after the last read that had ended by this time.

    Raises:
        UsageError: If the connection was not known at this time, or retention removed its observations of this time.
    """
    history = next(read_histories(session, only_connection(connection_id)), None)
    if history is None:
        raise UsageError(f"No connection {connection_id[:100]!r} is known.")
    baseline = history.baseline
    if baseline is not None and at < baseline.ended_at:
        raise UsageError(f"The history before {_iso(baseline.ended_at)} is no longer kept.")
    kept = takewhile(lambda each: each.ended_at <= at, history.observations)
    (row,) = deque(project_mirrors(baseline, kept), maxlen=1)
    if row is None:
        raise UsageError(f"The connection {connection_id[:100]!r} was not known at {_iso(at)}.")
    return row


def _iso(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
