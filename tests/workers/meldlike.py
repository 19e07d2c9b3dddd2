"""A scripted Meld for the workers: implements the reader's port, answers what it is told to, and counts."""

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from schemas.meld import Found, Outcome, Snapshot


def document(id_: str, status: str = "ACTIVE", **fields: Any) -> dict[str, Any]:
    """Return Meld's answer for a connection."""
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


class ScriptedReader:
    """Answers with what was scripted for a connection: an outcome, or a function that makes one."""

    def __init__(self) -> None:
        self.answers: dict[str, Outcome | Callable[[], Outcome]] = {}
        self.reads: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    def read(self, connection_id: str) -> Outcome:
        """Answer as scripted; a connection without a script is ACTIVE."""
        with self._lock:
            self.reads[connection_id] += 1
            answer = self.answers.get(connection_id, found(connection_id))
        return answer() if callable(answer) else answer
