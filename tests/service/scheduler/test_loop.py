import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.queues import circuit_breaker, reads
from schemas.tables import ReadRequestRow, TaskLeaseRow
from service.scheduler.loop import LEASE_SECONDS, MAX_MESSAGES_IN_FLIGHT, STALE_CHECK_PASSES, Scheduler
from tests.service.fakes import HandClock
from tests.support.polling import eventually
from tests.support.row_factory import connection, read_request, store

Make = Callable[..., Scheduler]


@pytest.fixture
def clock() -> HandClock:
    """A clock for the database that is moved by hand."""
    return HandClock()


@pytest.fixture
def timed_database(database_url: str, clock: HandClock) -> Iterator[Database]:
    """A database with that clock."""
    database = Database(database_url, clock=clock)
    yield database
    database.close()


@pytest.fixture
def notified() -> list[str]:
    """The notified connections and subscriptions."""
    return []


@pytest.fixture
def make(timed_database: Database, notified: list[str]) -> Make:
    """Return a factory of schedulers."""

    def make(holder: str = "one", **options: Any) -> Scheduler:
        return Scheduler(
            **{
                "database": timed_database,
                "notify_readers": notified.extend,
                "notify_dispatchers": notified.extend,
                "holder": holder,
                **options,
            }
        )

    return make


def pending_read(clock: HandClock, connection_id: str, due_in: float = -1, **values: Any) -> ReadRequestRow:
    """Return a read request that is pending; times are in seconds from now."""
    times = {name: clock.now + timedelta(seconds=value) for name, value in values.items() if isinstance(value, float)}
    return read_request(connection_id, requested=1, due_at=clock.now + timedelta(seconds=due_in), **{**values, **times})


def open_circuit(database: Database, seconds: float) -> None:
    with database.write() as session:
        circuit_breaker.open_circuit(database, session, reason="throttled", detail="Meld answered 429", seconds=seconds)


def test_due_reads_are_notified(timed_database: Database, clock: HandClock, make: Make, notified: list[str]) -> None:
    """Workers are notified of reads that are due, not leased, and not already notified."""
    long_ago, shortly_before = -reads.RENOTIFY_AFTER_SECONDS - 1.0, -reads.RENOTIFY_AFTER_SECONDS + 1.0
    store(
        timed_database,
        pending_read(clock, "due"),
        pending_read(clock, "due now", 0),
        pending_read(clock, "message lost", woken_at=long_ago),
        pending_read(clock, "lease expired", lease_token="t", leased_until=-0.5),
        pending_read(clock, "failed, retried", failed_at=-900.0),
        pending_read(clock, "not due", 1),
        pending_read(clock, "just notified", woken_at=shortly_before),
        pending_read(clock, "leased", lease_token="t", leased_until=1.0),
        pending_read(clock, "leased, notified long ago", lease_token="t", leased_until=1.0, woken_at=long_ago),
        read_request("idle", requested=3, completed=3),
        read_request("never due", requested=1, due_at=None),
    )

    assert make().run_once() == 5
    assert sorted(notified) == ["due", "due now", "failed, retried", "lease expired", "message lost"]


def test_a_due_read_is_notified_again_only_after_a_while(
    timed_database: Database, clock: HandClock, make: Make, notified: list[str]
) -> None:
    """A message in flight has time to arrive; a lost one is sent again."""
    store(timed_database, pending_read(clock, "c1"))
    scheduler = make()

    counts = []
    for _ in range(3 * reads.RENOTIFY_AFTER_SECONDS):
        scheduler.run_once()
        counts.append(len(notified))
        clock.move(1)

    first, second = reads.RENOTIFY_AFTER_SECONDS, 2 * reads.RENOTIFY_AFTER_SECONDS
    assert counts[first] == 1
    assert counts[first + 1] == 2
    assert counts[second + 1] == 2
    assert counts[-1] == 3


def test_the_oldest_due_reads_come_first(
    timed_database: Database, clock: HandClock, make: Make, notified: list[str]
) -> None:
    """If there are more due reads than messages allowed, the oldest come first, and the next pass adds none."""
    store(
        timed_database,
        *(pending_read(clock, f"c{number:04}", -float(number)) for number in range(MAX_MESSAGES_IN_FLIGHT + 200)),
    )
    scheduler = make()

    counts = [scheduler.run_once(), scheduler.run_once()]

    assert counts == [MAX_MESSAGES_IN_FLIGHT, 0]
    assert set(notified) == {f"c{number:04}" for number in range(200, MAX_MESSAGES_IN_FLIGHT + 200)}


def test_leased_reads_make_room_for_messages(
    timed_database: Database, clock: HandClock, make: Make, notified: list[str]
) -> None:
    """As workers lease reads, more messages are sent."""
    store(timed_database, *(pending_read(clock, f"c{number:04}") for number in range(MAX_MESSAGES_IN_FLIGHT + 200)))
    scheduler = make()
    scheduler.run_once()
    with timed_database.write() as session:
        for row in session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id.in_(notified[:150]))).all():  # type: ignore[attr-defined]
            row.lease_token, row.leased_until, row.woken_at = "t", clock.now + timedelta(seconds=30), None

    assert scheduler.run_once() == 150
    assert len(set(notified)) == MAX_MESSAGES_IN_FLIGHT + 150


def test_an_open_circuit_stops_messages(
    timed_database: Database, clock: HandClock, make: Make, notified: list[str]
) -> None:
    """While the circuit is open no worker is notified; when it is half-open, one is, as a probe."""
    store(timed_database, *(pending_read(clock, f"c{number}") for number in range(20)))
    open_circuit(timed_database, 30)
    scheduler = make()
    during = scheduler.run_once()
    clock.move(30.5)
    after = scheduler.run_once()
    with timed_database.write() as session:
        circuit_breaker.close_circuit(session)

    assert (during, after, scheduler.run_once(), len(set(notified))) == (0, 1, 19, 20)


@pytest.mark.parametrize("seconds", [30, -1], ids=["during", "after"])
def test_stale_reads_wait_for_a_closed_circuit(
    timed_database: Database, clock: HandClock, make: Make, notified: list[str], seconds: float
) -> None:
    """Reads of stale connections are not requested while the circuit is open."""
    old = clock.now - timedelta(hours=9)
    for number in range(5):
        store(timed_database, connection(f"c{number}", checked_at=old), read_request(f"c{number}"))
    open_circuit(timed_database, seconds)

    make(fresh_seconds=3600).run_once()

    assert notified == []


def test_stale_reads_are_requested_every_tenth_pass(
    timed_database: Database, clock: HandClock, make: Make, notified: list[str]
) -> None:
    """A connection that was not read for too long is requested once; one in a terminal state is not."""
    old = clock.now - timedelta(hours=9)
    store(
        timed_database,
        connection("old", checked_at=old),
        read_request("old"),
        connection("new", checked_at=clock.now),
        read_request("new"),
    )
    store(timed_database, connection("gone", checked_at=old, status="DELETED"), read_request("gone"))
    scheduler = make(fresh_seconds=3600)

    for _ in range(STALE_CHECK_PASSES + 1):
        scheduler.run_once()

    assert notified == ["old"]


def test_one_of_several_schedulers_is_active(
    timed_database: Database, clock: HandClock, make: Make, notified: list[str]
) -> None:
    """Another scheduler takes over when the lease has expired, and not before."""
    schedulers = {"one": make("one"), "two": make("two")}

    def passes_after(seconds: float, *names: str) -> list[str]:
        """Move the clock, and return which of the schedulers, in this order, ran a pass."""
        clock.move(seconds)
        store(timed_database, pending_read(clock, f"c{clock.now}"))
        return [name for name in names if schedulers[name].run_once()]

    active = [
        passes_after(0, "one", "two"),
        passes_after(LEASE_SECONDS - 0.1, "two", "one"),
        passes_after(LEASE_SECONDS - 0.1, "two"),
        passes_after(0.2, "two", "one"),
        passes_after(1, "one", "two"),
    ]
    assert active == [["one"], ["one"], [], ["two"], ["two"]]


@pytest.mark.parametrize("schedulers", [2, 8])
def test_several_schedulers_at_once_send_each_message_once(
    database_url: str, clock: HandClock, schedulers: int
) -> None:
    """Of schedulers that run at once, one does the pass, and each due read gets one message."""
    databases = [Database(database_url, clock=clock) for _ in range(schedulers)]
    notified: list[str] = []
    store(databases[0], *(pending_read(clock, f"c{number}") for number in range(200)))
    ready = threading.Barrier(schedulers)
    counts: list[int] = []

    def run(number: int) -> None:
        scheduler = Scheduler(
            database=databases[number],
            notify_readers=notified.extend,
            notify_dispatchers=notified.extend,
            holder=f"clock {number}",
        )
        for _ in range(5):
            ready.wait()
            counts.append(scheduler.run_once())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(schedulers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in databases:
        each.close()

    assert max(counts) == 200
    assert sum(counts) == 200
    assert set(Counter(notified).values()) == {1}


def test_the_lease_names_its_holder(timed_database: Database, make: Make) -> None:
    """The lease shows which process is active, and when it last did a pass."""
    make("host 17 abc").run_once()

    with timed_database.read() as session:
        (lease,) = session.exec(select(TaskLeaseRow)).all()
    assert (lease.name, lease.holder) == ("clock", "host 17 abc")
    assert lease.ran_at is not None


def test_an_unreachable_broker_raises(
    timed_database: Database, clock: HandClock, make: Make, notified: list[str]
) -> None:
    """A pass whose messages the broker refuses raises; the messages are sent again later."""
    store(timed_database, pending_read(clock, "c1"))

    def fail(_ids: object) -> None:
        raise OutOfReachError("outage")

    with pytest.raises(OutOfReachError):
        make(notify_readers=fail).run_once()
    clock.move(reads.RENOTIFY_AFTER_SECONDS + 1)

    assert make().run_once() == 1


def test_its_thread_runs_passes_and_survives_errors(database: Database) -> None:
    """A due read is notified within a pass or two, whatever the previous pass raised."""
    notified: list[str] = []
    errors: list[Exception] = [OutOfReachError("outage"), RuntimeError("unforeseen")]

    def call(ids: list[str]) -> None:
        if errors:
            raise errors.pop()
        notified.extend(ids)

    scheduler = Scheduler(database=database, notify_readers=call, notify_dispatchers=call, holder="one")  # type: ignore[arg-type]
    scheduler.start()
    assert scheduler.is_alive()
    eventually(lambda: not errors, seconds=4)
    with database.write() as session:
        reads.request_reads(database, session, ["c1"], "operator")
        session.get_one(ReadRequestRow, "c1").woken_at = None

    assert eventually(lambda: notified, seconds=4) == ["c1"]
    scheduler.stop()
    assert not scheduler.is_alive()
