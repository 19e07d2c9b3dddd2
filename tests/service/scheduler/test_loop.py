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
def hand() -> HandClock:
    """The clock of the database, moved by hand."""
    return HandClock()


@pytest.fixture
def timed(database_url: str, hand: HandClock) -> Iterator[Database]:
    """A database whose time is moved by hand."""
    database = Database(database_url, clock=hand)
    yield database
    database.close()


@pytest.fixture
def called() -> list[str]:
    """The notified connections and subscriptions."""
    return []


@pytest.fixture
def make(timed: Database, called: list[str]) -> Make:
    """Return a factory of schedulers."""

    def make(holder: str = "one", **options: Any) -> Scheduler:
        return Scheduler(
            **{
                "database": timed,
                "notify_readers": called.extend,
                "notify_dispatchers": called.extend,
                "holder": holder,
                **options,
            }
        )

    return make


def owed(hand: HandClock, connection_id: str, due_in: float = -1, **values: Any) -> ReadRequestRow:
    """Return a read request that is pending; times are in seconds from now."""
    times = {name: hand.now + timedelta(seconds=value) for name, value in values.items() if isinstance(value, float)}
    return read_request(connection_id, requested=1, due_at=hand.now + timedelta(seconds=due_in), **{**values, **times})


def close_gate(database: Database, seconds: float) -> None:
    with database.write() as session:
        circuit_breaker.open_circuit(database, session, reason="throttled", detail="Meld answered 429", seconds=seconds)


def test_due_reads_are_notified(timed: Database, hand: HandClock, make: Make, called: list[str]) -> None:
    """Workers are notified of reads that are due, not leased, and not notified lately."""
    long_ago, lately = -reads.RENOTIFY_AFTER_SECONDS - 1.0, -reads.RENOTIFY_AFTER_SECONDS + 1.0
    store(
        timed,
        owed(hand, "due"),
        owed(hand, "due just now", 0),
        owed(hand, "call lost", woken_at=long_ago),
        owed(hand, "lease over", lease_token="t", leased_until=-0.5),
        owed(hand, "given up, may heal", failed_at=-900.0),
        owed(hand, "not due", 1),
        owed(hand, "called lately", woken_at=lately),
        owed(hand, "at work", lease_token="t", leased_until=1.0),
        owed(hand, "at work, called long ago", lease_token="t", leased_until=1.0, woken_at=long_ago),
        read_request("idle", requested=3, completed=3),
        read_request("never due", requested=1, due_at=None),
    )

    assert make().run_once() == 5
    assert sorted(called) == ["call lost", "due", "due just now", "given up, may heal", "lease over"]


def test_a_due_read_is_notified_again_only_after_a_while(
    timed: Database, hand: HandClock, make: Make, called: list[str]
) -> None:
    """A message in flight has time to arrive; a lost one is sent again."""
    store(timed, owed(hand, "c1"))
    clock = make()

    counts = []
    for _ in range(3 * reads.RENOTIFY_AFTER_SECONDS):
        clock.run_once()
        counts.append(len(called))
        hand.move(1)

    first, second = reads.RENOTIFY_AFTER_SECONDS, 2 * reads.RENOTIFY_AFTER_SECONDS
    assert counts[first] == 1
    assert counts[first + 1] == 2
    assert counts[second + 1] == 2
    assert counts[-1] == 3


def test_the_oldest_due_reads_come_first(timed: Database, hand: HandClock, make: Make, called: list[str]) -> None:
    """If there are more due reads than messages allowed, the oldest come first, and the next pass adds none."""
    store(timed, *(owed(hand, f"c{number:04}", -float(number)) for number in range(MAX_MESSAGES_IN_FLIGHT + 200)))
    clock = make()

    counts = [clock.run_once(), clock.run_once()]

    assert counts == [MAX_MESSAGES_IN_FLIGHT, 0]
    assert set(called) == {f"c{number:04}" for number in range(200, MAX_MESSAGES_IN_FLIGHT + 200)}


def test_leased_reads_make_room_for_messages(timed: Database, hand: HandClock, make: Make, called: list[str]) -> None:
    """As workers lease reads, more messages are sent."""
    store(timed, *(owed(hand, f"c{number:04}") for number in range(MAX_MESSAGES_IN_FLIGHT + 200)))
    clock = make()
    clock.run_once()
    with timed.write() as session:
        for row in session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id.in_(called[:150]))).all():  # type: ignore[attr-defined]
            row.lease_token, row.leased_until, row.woken_at = "t", hand.now + timedelta(seconds=30), None

    assert clock.run_once() == 150
    assert len(set(called)) == MAX_MESSAGES_IN_FLIGHT + 150


def test_an_open_circuit_stops_messages(timed: Database, hand: HandClock, make: Make, called: list[str]) -> None:
    """While the circuit is open no worker is notified; when it is half-open, one is, as a probe."""
    store(timed, *(owed(hand, f"c{number}") for number in range(20)))
    close_gate(timed, 30)
    clock = make()
    during = clock.run_once()
    hand.move(30.5)
    after = clock.run_once()
    with timed.write() as session:
        circuit_breaker.close_circuit(session)

    assert (during, after, clock.run_once(), len(set(called))) == (0, 1, 19, 20)


@pytest.mark.parametrize("seconds", [30, -1], ids=["during", "after"])
def test_stale_reads_wait_for_a_closed_circuit(
    timed: Database, hand: HandClock, make: Make, called: list[str], seconds: float
) -> None:
    """Reads of stale connections are not requested while the circuit is open."""
    old = hand.now - timedelta(hours=9)
    for number in range(5):
        store(timed, connection(f"c{number}", checked_at=old), read_request(f"c{number}"))
    close_gate(timed, seconds)

    make(fresh_seconds=3600).run_once()

    assert called == []


def test_stale_reads_are_requested_every_tenth_pass(
    timed: Database, hand: HandClock, make: Make, called: list[str]
) -> None:
    """A connection that was not read for too long is requested once; one in a terminal state is not."""
    old = hand.now - timedelta(hours=9)
    store(
        timed,
        connection("old", checked_at=old),
        read_request("old"),
        connection("new", checked_at=hand.now),
        read_request("new"),
    )
    store(timed, connection("gone", checked_at=old, status="DELETED"), read_request("gone"))
    clock = make(fresh_seconds=3600)

    for _ in range(STALE_CHECK_PASSES + 1):
        clock.run_once()

    assert called == ["old"]


def test_one_of_several_schedulers_is_active(timed: Database, hand: HandClock, make: Make, called: list[str]) -> None:
    """Another scheduler takes over when the lease has expired, and not before."""
    clocks = {"one": make("one"), "two": make("two")}

    def at_it_after(seconds: float, *asked: str) -> list[str]:
        """Let time pass, and return which of the schedulers, in this order, did a pass."""
        hand.move(seconds)
        store(timed, owed(hand, f"c{hand.now}"))
        return [name for name in asked if clocks[name].run_once()]

    who = [
        at_it_after(0, "one", "two"),
        at_it_after(LEASE_SECONDS - 0.1, "two", "one"),
        at_it_after(LEASE_SECONDS - 0.1, "two"),
        at_it_after(0.2, "two", "one"),
        at_it_after(1, "one", "two"),
    ]
    assert who == [["one"], ["one"], [], ["two"], ["two"]]


@pytest.mark.parametrize("clocks", [2, 8])
def test_several_schedulers_at_once_send_each_message_once(database_url: str, hand: HandClock, clocks: int) -> None:
    """Of schedulers that run at once, one does the pass, and each due read gets one message."""
    databases = [Database(database_url, clock=hand) for _ in range(clocks)]
    called: list[str] = []
    store(databases[0], *(owed(hand, f"c{number}") for number in range(200)))
    ready = threading.Barrier(clocks)
    counts: list[int] = []

    def run(number: int) -> None:
        clock = Scheduler(
            database=databases[number],
            notify_readers=called.extend,
            notify_dispatchers=called.extend,
            holder=f"clock {number}",
        )
        for _ in range(5):
            ready.wait()
            counts.append(clock.run_once())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clocks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in databases:
        each.close()

    assert max(counts) == 200
    assert sum(counts) == 200
    assert set(Counter(called).values()) == {1}


def test_the_lease_names_its_holder(timed: Database, make: Make) -> None:
    """The lease shows which process is active, and when it last did a pass."""
    make("host 17 abc").run_once()

    with timed.read() as session:
        (lease,) = session.exec(select(TaskLeaseRow)).all()
    assert (lease.name, lease.holder) == ("clock", "host 17 abc")
    assert lease.ran_at is not None


def test_an_unreachable_broker_raises(timed: Database, hand: HandClock, make: Make, called: list[str]) -> None:
    """A pass whose messages the broker refuses raises; the messages are sent again later."""
    store(timed, owed(hand, "c1"))

    def away(_ids: object) -> None:
        raise OutOfReachError("away")

    with pytest.raises(OutOfReachError):
        make(notify_readers=away).run_once()
    hand.move(reads.RENOTIFY_AFTER_SECONDS + 1)

    assert make().run_once() == 1


def test_its_thread_runs_passes_and_survives_errors(database: Database) -> None:
    """A due read is notified within a pass or two, whatever the previous pass raised."""
    called: list[str] = []
    errors: list[Exception] = [OutOfReachError("away"), RuntimeError("unforeseen")]

    def call(ids: list[str]) -> None:
        if errors:
            raise errors.pop()
        called.extend(ids)

    clock = Scheduler(database=database, notify_readers=call, notify_dispatchers=call, holder="one")  # type: ignore[arg-type]
    clock.start()
    assert clock.is_alive()
    eventually(lambda: not errors, seconds=4)
    with database.write() as session:
        reads.request_reads(database, session, ["c1"], "operator")
        session.get_one(ReadRequestRow, "c1").woken_at = None

    assert eventually(lambda: called, seconds=4) == ["c1"]
    clock.stop()
    assert not clock.is_alive()
