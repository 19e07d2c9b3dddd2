"""A past for tests: connections that were read again and again, through the real lease and apply."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import delete
from sqlmodel import col, select

from runtime.clock import utcnow
from runtime.database import Database
from runtime.queues import reads as read_queue
from runtime.settings import Settings
from schemas import tables
from schemas.meld.connection import Snapshot
from schemas.message_names import Trigger
from schemas.rebuild_report import RebuildFinding
from tests.support.scripted_meld import document
from tests.support.webhook_factory import body, store
from workers.history.rebuild import Rebuild
from workers.refetch.bulk_import import BulkImport
from workers.refetch.commit import commit_read
from workers.refetch.lease import ReadLease, acquire_lease
from workers.refetch.mirror_row import Reading
from workers.retention.cutoffs import compute_cutoffs
from workers.retention.events import remove_old_events
from workers.retention.observations import remove_old_observations

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
IDS = ("a", "b", "c")
TABLES = (
    tables.WebhookRow,
    tables.ReadRequestRow,
    tables.ConnectionRow,
    tables.ObservationRow,
    tables.BaselineRow,
    tables.EventRow,
    tables.EventBaselineRow,
)
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Read:
    """A read of Meld: the connection, the answer (None for a 404), and the trigger."""

    id: str
    seen: dict[str, Any] | None
    trigger: Trigger = "operator"


@dataclass
class Past:
    """A history of reads, one each minute."""

    database: Database
    minutes: Iterator[int] = field(default_factory=itertools.count)

    def clear(self) -> None:
        """Delete all rows."""
        with self.database.write() as session:
            for table in TABLES:
                session.exec(delete(table))

    def make_reads(self, *reads: Read) -> None:
        """Make reads, one after the other."""
        for read in reads:
            self._make(read)

    def _make(self, read: Read) -> None:
        began_at = self.tick()
        snapshot = Snapshot.from_document(read.seen) if read.seen is not None else None
        reading = Reading(snapshot, began_at, began_at + timedelta(seconds=1))
        if read.trigger == "reconcile" and snapshot is not None and not self._is_known(read.id):
            adopt = BulkImport(database=self.database)
            with self.database.write() as session:
                read_queue.lock_requests(self.database, session, {read.id, *snapshot.duplicate_ids})
                adopt(session, [snapshot], began_at, began_at + timedelta(seconds=1))
            return
        lease = self.lease_read(read)
        with self.database.write() as session:
            commit_read(self.database, session, lease, reading)

    def tick(self) -> datetime:
        """Advance the time by a minute, and return it."""
        return BEGAN + timedelta(minutes=next(self.minutes))

    def lease_read(self, read: Read) -> ReadLease:
        """Ask for a read, and lease it."""
        if read.trigger == "webhook":
            store(self.database, body(read.id))
        else:
            with self.database.write() as session:
                replay_id = "r1" if read.trigger == "replay" else None
                read_queue.request_reads(self.database, session, [read.id], read.trigger, replay_id=replay_id)
        with self.database.write() as session:
            lease = acquire_lease(self.database, session, read.id, token=f"token {next(_NUMBERS)}", lease_seconds=30)
        assert lease is not None
        return lease

    def _is_known(self, id_: str) -> bool:
        with self.database.read() as session:
            return session.get(tables.ConnectionRow, id_) is not None

    def rows(self, table: type[Any], *order: Any) -> list[dict[str, Any]]:
        """Return a table's rows."""
        with self.database.read() as session:
            return [row.model_dump() for row in session.exec(select(table).order_by(*order)).all()]

    def all(self) -> dict[str, list[dict[str, Any]]]:
        """Return all rows that a rebuild could change."""
        return {
            "mirror": self.rows(tables.ConnectionRow, col(tables.ConnectionRow.id)),
            "observation": self.rows(tables.ObservationRow, col(tables.ObservationRow.id)),
            "event": self.rows(tables.EventRow, col(tables.EventRow.position)),
            "read_request": self.rows(tables.ReadRequestRow, col(tables.ReadRequestRow.connection_id)),
            "counter": self.rows(tables.FeedCounterRow),
        }

    def check(self) -> list[RebuildFinding]:
        """Run the consistency check of all connections."""
        return list(self.rebuild().check(lambda _count: None))

    def repair(self) -> list[RebuildFinding]:
        """Repair all connections."""
        return list(self.rebuild().repair(lambda _count: None, who="alice"))

    def rebuild(self) -> Rebuild:
        """Return a rebuild with two connections in each snapshot."""
        return Rebuild(database=self.database, clock=utcnow, chunk=2)

    def remove_observations(self, *ids: str, before: datetime | None = None) -> int:
        """Remove connections' oldest observations, by default all removable ones; return how many."""
        with self.database.write() as session:
            return sum(remove_old_observations(self.database, session, id_, before or self.tick()) for id_ in ids)

    def remove_events(self, *ids: str, before: datetime | None = None) -> int:
        """Remove connections' oldest events, by default all removable ones; return how many."""
        cutoffs = replace(compute_cutoffs(Settings(), utcnow()), events=before or self.tick())
        with self.database.write() as session:
            return sum(remove_old_events(self.database, session, id_, cutoffs) for id_ in ids)


# Numbers that a database may format differently than Meld, and all other fields in which answers may differ.
NUMBERS = st.sampled_from([0, -0.0, 1, 1.0, 0.1, 1e5, 1e16, 1e23, 5e-324, 10**30, 2**63, True])
DETAILS = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"serviceProvider": st.sampled_from(["PLAID", "MX"]), "n": NUMBERS}),
    st.fixed_dictionaries({"nested": st.fixed_dictionaries({"é ": st.lists(NUMBERS, max_size=2)})}),
)


def documents(id_: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return possible answers of Meld for a connection."""
    others = [other for other in IDS if other != id_]
    fields = st.fixed_dictionaries(
        {
            "status": st.sampled_from(["ACTIVE", "RECONNECT_REQUIRED", "IN_PROGRESS", "DELETED", "EXPIRED", "new one"]),
            "statusReason": st.sampled_from([None, "LOGIN_REQUIRED", "OTHER"]),
            "activeDuplicateConnectionId": st.sampled_from([None, *IDS]),
            "duplicateConnectionIds": st.sampled_from([None, [], others[:1], others, others[::-1], [id_, *others]]),
            "accountId": st.sampled_from(["acct", "other", None]),
            "serviceProviderDetails": DETAILS,
            "successfullyAggregatedAt": st.sampled_from([None, "2026-01-02T03:04:05.6789012Z", "soon"]),
            "unheardOf": st.one_of(st.none(), NUMBERS, st.text(st.characters(exclude_categories=["Cs", "Cc"]))),
        }
    )
    return fields.map(lambda changed: {**document(id_), **changed})


TRIGGERS: Sequence[Trigger] = ("webhook", "operator", "reconcile", "replay", "clock")


@st.composite
def reads(draw: st.DrawFn) -> Read:
    """Return a random read of one of the connections."""
    id_ = draw(st.sampled_from(IDS))
    is_gone = draw(st.integers(0, 5)) == 0
    return Read(id_, None if is_gone else draw(documents(id_)), draw(st.sampled_from(TRIGGERS)))


def random_reads() -> st.SearchStrategy[list[Read]]:
    """Return many reads of few connections; some reads are repeated and change nothing."""
    several = st.lists(reads(), min_size=1, max_size=12)
    return several.map(lambda made: [each for number, read in enumerate(made) for each in [read] * (1 + number % 2)])
