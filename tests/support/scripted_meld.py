"""Scripted Meld for tests of the workers: returns scripted outcomes, and counts reads."""

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from runtime.clock import Clock, utcnow
from runtime.database import Database
from runtime.metrics import Metrics
from schemas.meld.connection import Snapshot
from schemas.meld.read_outcome import Found, ReadOutcome
from workers.refetch.refetch import MeldReader, Refetcher

_NUMBERS = itertools.count(1)


def document(id_: str, status: str = "ACTIVE", **fields: Any) -> dict[str, Any]:
    """Return Meld's response for a connection."""
    return {
        "id": id_,
        "accountId": "acct",
        "customerId": "cust",
        "status": status,
        "statusReason": None,
        "activeDuplicateConnectionId": None,
        "duplicateConnectionIds": None,
        "createdAt": "2026-01-02T03:04:05.678901Z",
        **fields,
    }


def found(id_: str, status: str = "ACTIVE", **fields: Any) -> Found:
    """Return the outcome of a read that found a connection."""
    return Found(Snapshot.from_document(document(id_, status, **fields)))


def make_refetcher(
    database: Database,
    reader: MeldReader,
    calls: list[str] | None = None,
    *,
    clock: Clock = utcnow,
    pushes: list[str] | None = None,
) -> Refetcher:
    """Return a refetcher as a process would create it."""
    return Refetcher(
        database=database,
        reader=reader,
        notify_workers=(calls if calls is not None else []).extend,
        notify_dispatchers=(pushes if pushes is not None else []).extend,
        clock=clock,
        lease_seconds=30,
        new_token=lambda: f"token {next(_NUMBERS)}",
        jitter=lambda: 0.0,
        metrics=Metrics(),
        notify_feed=lambda: None,
    )


class ScriptedReader:
    """Returns the outcome scripted for a connection, or the result of a scripted function."""

    def __init__(self) -> None:
        self.answers: dict[str, ReadOutcome | Callable[[], ReadOutcome]] = {}
        self.reads: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    def read(self, connection_id: str) -> ReadOutcome:
        """Return the scripted outcome; a connection without a script is ACTIVE."""
        with self._lock:
            self.reads[connection_id] += 1
            answer = self.answers.get(connection_id, found(connection_id))
        return answer() if callable(answer) else answer
