import itertools
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from runtime.clock import utcnow
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import reads
from schemas import tables
from schemas.meld.connection import MAX_ID_LENGTH, MAX_INDEXED_BYTES, Snapshot
from schemas.meld.read_outcome import ListPage, PageOutcome, Refused, Throttled, Unavailable
from schemas.tables import ConnectionRow, ReadRequestRow, ReconcileRunRow
from service.reconcile.list_reader import FAILED_SECONDS
from service.reconcile.report import ReconcileReport
from service.reconcile.run import ReconcileLeasedError, Reconciler
from tests.support import row_factory
from tests.support.scripted_meld import ScriptedReader, document, found, make_refetcher
from tests.support.webhook_factory import body, store
from workers.refetch.bulk_import import BulkImport

SIZE = 3


class Listing:
    """A fake Meld that lists the given documents page by page, and fails as scripted."""

    def __init__(self, *documents: dict[str, Any]) -> None:
        self.documents = list(documents)
        self.failures: list[PageOutcome] = []
        self.calls = 0
        self.before_page: Callable[[int], None] = lambda _page: None

    def page(self, *, after: str | None = None) -> PageOutcome:
        """Answer with a page, or the next failure."""
        self.calls += 1
        self.before_page(self.calls)
        if self.failures:
            return self.failures.pop(0)
        start = int(after) if after is not None else 0
        items = self.documents[start : start + SIZE]
        end = start + len(items)
        snapshots = tuple(Snapshot.from_document(item) for item in items)
        return ListPage(snapshots, 0, str(end) if end < len(self.documents) else None)


@pytest.fixture
def make(database: Database) -> Callable[..., Reconciler]:
    """Return a factory of reconcilers, each with a lease holder of its own."""
    numbers = itertools.count(1)

    def make(
        listing: Listing,
        calls: list[str] | None = None,
        notify: Callable[[], None] = lambda: None,
        waits: list[float] | None = None,
    ) -> Reconciler:
        def wait(seconds: float) -> bool:
            if waits is not None:
                waits.append(seconds)
            return _end_pauses(database)

        return Reconciler(
            database=database,
            lister=listing,
            import_connections=BulkImport(database=database),
            notify_workers=(calls if calls is not None else []).extend,
            clock=utcnow,
            holder=f"holder {next(numbers)}",
            lease_seconds=30,
            wait=wait,
            notify_feed=notify,
        )

    return make


def _end_pauses(database: Database) -> bool:
    past = datetime.now(UTC) - timedelta(hours=1)
    with database.write() as session:
        is_paused = col(tables.CircuitBreakerRow.paused_until).is_not(None)
        session.exec(update(tables.CircuitBreakerRow).where(is_paused).values(paused_until=past))
    return False


def many(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [document(f"c{number:03}", **fields) for number in range(count)]


def rows(database: Database, table: type[Any]) -> list[Any]:
    with database.read() as session:
        return list(session.exec(select(table)).all())


def owed(database: Database) -> list[str]:
    return sorted(job.connection_id for job in rows(database, ReadRequestRow) if job.requested > job.completed)


def test_a_new_mirror_is_filled_from_the_list(database: Database, make: Callable[..., Reconciler]) -> None:
    """New connections are imported from the list: one call for a page, one event each, and no read."""
    listing = Listing(*many(7))

    report = make(listing).run()

    assert report.drift == {"unseen": 7, "changed": 0, "missing": 0}
    assert (report.pages, report.listed, listing.calls) == (3, 7, 3)
    assert sorted(row.id for row in rows(database, ConnectionRow)) == [f"c{number:03}" for number in range(7)]
    assert {row.data["cause"]["trigger"] for row in rows(database, tables.EventRow)} == {"reconcile"}
    assert len(rows(database, tables.EventRow)) == 7
    assert owed(database) == []


def test_imports_notify_feed_readers(database: Database, make: Callable[..., Reconciler]) -> None:
    """Feed readers are notified after the commit of each page that imported connections."""
    seen: list[int] = []

    def look() -> None:
        with database.read() as session:
            seen.append(len(session.exec(select(tables.EventRow)).all()))

    listing = Listing(*many(SIZE + 1))
    make(listing, notify=look).run()
    make(listing, notify=look).run()

    assert seen == [SIZE, SIZE + 1]


def test_a_true_mirror_has_no_drift(make: Callable[..., Reconciler]) -> None:
    """A second reconcile of an unchanged Meld finds nothing."""
    listing = Listing(*many(4))
    make(listing).run()

    assert make(listing).run().is_clean


def test_changed_and_missing_connections_are_read_again(database: Database, make: Callable[..., Reconciler]) -> None:
    """Reads of changed and missing connections are requested; the mirror waits for them."""
    make(Listing(*many(4))).run()
    calls: list[str] = []

    report = make(Listing(*many(2), document("c002", "DEGRADED")), calls).run()

    assert report.drift == {"unseen": 0, "changed": 1, "missing": 1}
    assert report.examples == {"changed": ["c002"], "missing": ["c003"]}
    assert owed(database) == ["c002", "c003"]
    assert sorted(calls) == ["c002", "c003"]
    assert {row.status for row in rows(database, ConnectionRow)} == {"ACTIVE"}


def test_a_pending_read_is_no_drift(database: Database, make: Callable[..., Reconciler]) -> None:
    """A connection with a pending read is left to that read, whether it was seen before or not."""
    make(Listing(*many(2))).run()
    store(database, body("c001"), body("c002"))

    report = make(Listing(*many(1), document("c001", "DEGRADED"), document("c002"))).run()

    assert report.is_clean
    assert owed(database) == ["c001", "c002"]


def test_deleted_connections_are_not_missing(make: Callable[..., Reconciler]) -> None:
    """DELETED and EXPIRED connections that the list lacks are no drift."""
    make(Listing(document("a", "DELETED"), document("b", "EXPIRED"))).run()

    assert make(Listing()).run().is_clean


def test_a_listed_connection_with_a_dead_read_is_read_again(
    database: Database, make: Callable[..., Reconciler]
) -> None:
    """After reads that failed with 404, a connection that Meld lists is read again."""
    make(Listing(document("known"), document("changed"))).run()
    with database.write() as session:
        reads.request_reads(database, session, ["known", "changed", "new"], "webhook")
        session.exec(update(ReadRequestRow).values(failed_at=datetime.now(UTC), due_at=None))

    report = make(Listing(document("known"), document("changed", status="OTHER"), document("new"))).run()

    assert report.drift == {"unseen": 1, "changed": 1, "missing": 0}
    assert {job.connection_id for job in rows(database, ReadRequestRow) if job.due_at is not None} == {
        "known",
        "changed",
        "new",
    }


def test_the_longest_accepted_values_can_be_stored(database: Database, make: Callable[..., Reconciler]) -> None:
    """Whatever Meld lists, no index of the database stops a reconcile at its page."""
    chance = random.Random(1)
    # Of many characters of four bytes each, so that no database makes it shorter.
    longest = "".join(chr(chance.randint(0x10000, 0x1F600)) for _ in range(MAX_INDEXED_BYTES // 4))
    id_, other = ("".join(chr(chance.randint(0x20000, 0x2A6D0)) for _ in range(MAX_ID_LENGTH)) for _ in range(2))
    names = ("customerId", "externalCustomerId", "institutionId")
    fields = {"activeDuplicateConnectionId": other, "duplicateConnectionIds": [other], **dict.fromkeys(names, longest)}

    report = make(Listing(document(id_, longest, **fields), document("next"))).run()

    assert report.drift["unseen"] == 2
    assert {row.customer_id for row in rows(database, ConnectionRow)} == {longest, "cust"}


def test_a_group_is_taken_from_the_list_without_a_read(database: Database, make: Callable[..., Reconciler]) -> None:
    """Members of one group, on one page or several, cause no reads."""
    ids = [f"g{number}" for number in range(5)]
    group = [
        document(id_, activeDuplicateConnectionId="g0", duplicateConnectionIds=[other for other in ids if other != id_])
        for id_ in ids
    ]

    make(Listing(*group)).run()

    assert owed(database) == []


def test_a_killed_run_resumes_behind_its_last_page(database: Database, make: Callable[..., Reconciler]) -> None:
    """After an interruption the next run reads only the remaining pages, and its report counts all."""
    listing = Listing(*many(8))

    def die(page: int) -> None:
        if page == 3:
            raise KeyboardInterrupt

    listing.before_page = die
    with pytest.raises(KeyboardInterrupt):
        make(listing).run()
    listing.before_page = lambda _page: None

    report = make(listing).run()

    assert (report.drift["unseen"], listing.calls) == (8, 4)
    assert len(rows(database, ReconcileRunRow)) == 1


def test_one_runs_at_a_time(make: Callable[..., Reconciler]) -> None:
    """While one process reconciles, another gets an error."""
    listing = Listing(*many(3))
    refused: list[BaseException] = []

    def second(_page: int) -> None:
        try:
            make(Listing()).run()
        except ReconcileLeasedError as error:
            refused.append(error)

    listing.before_page = second
    make(listing).run()

    assert len(refused) == 1


@pytest.mark.parametrize(
    "failure",
    [
        Throttled(3),
        Throttled(None),
        Refused("Meld answered 401"),
        Unavailable("Meld answered 500"),
        Unavailable("Meld answered 503", 30),
    ],
    ids=repr,
)
def test_failed_pages_are_retried(make: Callable[..., Reconciler], failure: PageOutcome) -> None:
    """A page that cannot be read is retried; an open circuit delays it, and the next good answer closes the circuit."""
    listing = Listing(*many(2))
    listing.failures = [failure] * 3

    report = make(listing).run()

    assert (report.listed, listing.calls) == (2, 4)


def test_retry_after_is_respected(database: Database, make: Callable[..., Reconciler]) -> None:
    """``Retry-After`` of the list is respected while the lease is renewed; the circuit stays closed."""
    listing = Listing(*many(2))
    listing.failures = [Unavailable("Meld answered 503", 12)]
    waits: list[float] = []

    make(listing, waits=waits).run()

    assert waits == [FAILED_SECONDS, FAILED_SECONDS, 12 - 2 * FAILED_SECONDS]
    assert [row.since for row in rows(database, tables.CircuitBreakerRow)] == [None]


def test_repeated_failures_end_the_run(make: Callable[..., Reconciler]) -> None:
    """After ten failures in a row it raises OutOfReachError; the next run resumes."""
    listing = Listing(*many(2))
    listing.failures = [Unavailable("Meld answered 500")] * 10

    with pytest.raises(OutOfReachError):
        make(listing).run()

    assert make(listing).run().listed == 2


def test_items_that_move_between_pages_are_imported_once(database: Database, make: Callable[..., Reconciler]) -> None:
    """An item on two pages is one connection and one event; a list whose cursors form a circle ends."""
    listing = Listing(*many(4), *many(4))

    make(listing).run()

    assert len(rows(database, ConnectionRow)) == 4
    assert len(rows(database, tables.EventRow)) == 4


def test_a_run_is_due_after_its_interval_or_an_interruption(
    database: Database, make: Callable[..., Reconciler]
) -> None:
    """Not at the first call, not before its interval, and at once after an interruption."""
    reconcile = make(Listing())
    first = reconcile.is_due(3600)
    with database.write() as session:
        session.exec(update(tables.TaskLeaseRow).values(ran_at=datetime.now(UTC) - timedelta(hours=2)))
    later = reconcile.is_due(3600)
    reconcile.run()
    after = reconcile.is_due(3600)
    with database.write() as session:
        session.exec(update(tables.TaskLeaseRow).values(ran_at=None))

    assert (first, later, after, reconcile.is_due(3600)) == (False, True, False, True)


def test_a_run_that_version_0_1_0_left_unfinished_is_due_at_once(
    database: Database, make: Callable[..., Reconciler]
) -> None:
    """That version renews the lease as if the run had ended; the unfinished run itself shows the interruption."""
    reconcile = make(Listing())
    reconcile.is_due(3600)
    now = datetime.now(UTC)
    row_factory.store(database, tables.ReconcileRunRow(started_at=now - timedelta(minutes=5), after="c2", examples={}))

    assert reconcile.is_due(3600)


def test_webhooks_during_a_reconcile_are_not_overtaken(database: Database, make: Callable[..., Reconciler]) -> None:
    """A webhook that is stored while a page is read keeps its read pending, whatever the page contains."""
    listing = Listing(document("c000"), document("c001"))
    listing.before_page = lambda _page: store(database, body("c000")) and None

    make(listing).run()

    assert owed(database) == ["c000"]


def test_two_at_once_do_everything_once(database: Database, make: Callable[..., Reconciler]) -> None:
    """Two processes that try to reconcile at once fill the mirror once."""
    reports: list[ReconcileReport | None] = []

    def run() -> None:
        try:
            reports.append(make(Listing(*many(9))).run())
        except ReconcileLeasedError:
            reports.append(None)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(rows(database, tables.EventRow)) == 9
    assert sum(report.drift["unseen"] for report in reports if report) == 9


def test_a_read_during_a_reconcile_is_not_overwritten(database: Database, make: Callable[..., Reconciler]) -> None:
    """A connection that is read while an older page is in flight keeps the state of the read, with one event."""
    reader = ScriptedReader()
    reader.answers["c000"] = found("c000", "DEGRADED")
    refetcher = make_refetcher(database, reader)

    def read(_page: int) -> None:
        store(database, body("c000"))
        refetcher.refetch("c000")

    listing = Listing(document("c000", "ACTIVE"))
    listing.before_page = read

    report = make(listing).run()

    assert report.is_clean
    assert [row.status for row in rows(database, ConnectionRow)] == ["DEGRADED"]
    assert len(rows(database, tables.EventRow)) == 1


def test_an_operators_run_is_audited(database: Database, make: Callable[..., Reconciler]) -> None:
    """A run of an operator has an audit entry; a run that was due, or that did not get the lease, has none."""
    make(Listing(*many(1))).run()
    make(Listing(*many(1))).run(who="alice")
    with database.write() as session:
        session.exec(update(tables.TaskLeaseRow).values(holder="other", until=datetime.now(UTC) + timedelta(hours=1)))
    with pytest.raises(ReconcileLeasedError):
        make(Listing(*many(1))).run(who="bob")

    (act,) = rows(database, tables.AuditRow)
    (_first, second) = rows(database, ReconcileRunRow)
    assert (act.who, act.act, act.subject) == ("alice", "reconcile.begun", str(second.id))
