import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from runtime.database import Database
from runtime.errors import OutOfReachError
from schemas.tables import ReadRequestRow, ReplayRow, TaskLeaseRow
from service.replay.runner import (
    LEASE_PREFIX,
    LEASE_SECONDS,
    RENEW_SECONDS,
    STEPS,
    WATCH_SECONDS,
    ReplayLeasedError,
    ReplayRunner,
)
from tests.service.replay.replay_helpers import WHO, replays_on, row_of, runner_on, started
from tests.support.scripted_consumer import deliveries, emit, subscribe
from tests.support.scripted_meld import ScriptedReader, make_refetcher
from tests.support.webhook_factory import body, store


class Died(BaseException):
    """The process was killed."""


def settled(database: Database, count: int) -> None:
    """Store webhooks of so many connections, and read them all."""
    store(database, *(body(f"c{number:03}", newStatus="ACTIVE") for number in range(count)))
    refetcher = make_refetcher(database, ScriptedReader())
    for number in range(count):
        refetcher.refetch(f"c{number:03}")


def asked_for(database: Database, replay_id: str) -> list[str]:
    with database.read() as session:
        mine = (
            select(ReadRequestRow.connection_id)
            .where(ReadRequestRow.replay_id == replay_id)
            .order_by(col(ReadRequestRow.connection_id))
        )
        return list(session.exec(mine).all())


def requested(database: Database) -> list[int]:
    """Return how many reads of each connection were requested."""
    with database.read() as session:
        return list(session.exec(select(ReadRequestRow.requested).order_by(col(ReadRequestRow.connection_id))).all())


def leases(database: Database) -> list[TaskLeaseRow]:
    with database.read() as session:
        return list(session.exec(select(TaskLeaseRow)).all())


def end_leases(database: Database) -> None:
    with database.write() as session:
        session.exec(update(TaskLeaseRow).values(until=database.now(-1)))


def after(steps: int, act: Callable[[], Any]) -> Callable[[float], bool]:
    """Return a ``wait`` that calls a function in the delay after so many steps, and returns its result."""
    rests = iter(range(10**6))

    def wait(seconds: float) -> bool:
        return bool(seconds and next(rests) == steps and act())

    return wait


def die() -> bool:
    raise Died


def test_a_replay_comes_to_its_end(database: Database) -> None:
    """A read of every connection is requested once, in steps of a second, and the lease is deleted."""
    settled(database, 7)
    rests: list[float] = []
    calls: list[str] = []
    progress: list[tuple[int, int | None]] = []
    replay = started(database, rate=3)
    runner = runner_on(database, calls, wait=lambda seconds: bool(seconds and rests.append(seconds)))

    row = runner.run(replay.id, lambda row, _waits: progress.append((row.done, row.total)))

    assert (row.done, row.total, row.finished_at is not None, row.error) == (7, 7, True, None)
    assert asked_for(database, replay.id) == sorted(calls) == [f"c{number:03}" for number in range(7)]
    assert (rests, progress) == ([1.0, 1.0], [(3, 7), (6, 7), (7, 7)])
    assert leases(database) == []


@pytest.mark.parametrize("steps", range(4))
def test_a_killed_replay_resumes_where_it_was(database: Database, steps: int) -> None:
    """Wherever it dies: the next process requests a read of each remaining connection, and of no other."""
    settled(database, 7)
    before = requested(database)
    replay = started(database, rate=2)
    with suppress(Died):
        runner_on(database, wait=after(steps, die)).run(replay.id)
    done = row_of(database, replay.id).done
    end_leases(database)

    second = runner_on(database)
    row = second.run(second.find_due("webhooks") or replay.id)

    assert done == min(2 * (steps + 1), 7)
    assert (row.done, row.finished_at is not None) == (7, True)
    assert requested(database) == [number + 1 for number in before]


@pytest.mark.parametrize("kind", ["webhooks", "events"])
def test_a_step_that_is_not_committed_was_not_done(database: Database, kind: str) -> None:
    """The cursor of a step and its work are one commit: a step that fails leaves neither."""
    settled(database, 2)
    subscribe(database)
    emit(database, "c000", "c001")
    told = len(deliveries(database))
    replay = started(database, kind, **({"subscription": "s1"} if kind == "events" else {}))
    before = requested(database)

    def fail(*arguments: Any) -> Any:
        STEPS[kind](*arguments)
        raise OutOfReachError

    with pytest.raises(OutOfReachError):
        runner_on(database, steps={kind: fail}).run(replay.id)
    row = row_of(database, replay.id)
    left = (row.after, row.done, requested(database), len(deliveries(database)))
    done = runner_on(database).run(replay.id).done

    assert left == ("", 0, before, told)
    assert done == row_of(database, replay.id).total


def test_one_process_runs_a_replay_at_a_time(database: Database) -> None:
    """While one process runs a replay, no other can; a process that does not renew its lease is replaced."""
    settled(database, 4)
    replay = started(database, rate=1)
    outcomes: list[str | None] = []

    def intrude() -> bool:
        other = runner_on(database)
        outcomes.append(other.find_due("webhooks"))
        with pytest.raises(ReplayLeasedError):
            other.run(replay.id)
        return False

    row = runner_on(database, wait=after(1, intrude)).run(replay.id)

    assert outcomes == [None]
    assert row.done == 4


def test_a_process_that_lost_its_lease_does_nothing(database: Database) -> None:
    """A process that lost its lease notices it before its next step."""
    settled(database, 4)
    before = requested(database)
    replay = started(database, rate=1)

    def be_replaced() -> bool:
        end_leases(database)
        runner_on(database).run(replay.id)
        return False

    row = runner_on(database, wait=after(0, be_replaced)).run(replay.id)

    assert (row.done, row.finished_at is not None) == (4, True)
    assert requested(database) == [number + 1 for number in before]


def test_several_processes_do_everything_once(database: Database) -> None:
    """However many processes look for replays at once, each replay is run once."""
    settled(database, 30)
    before = requested(database)
    ids = [started(database, rate=7).id for _ in range(3)]
    start = threading.Barrier(4)

    def work() -> None:
        runner = runner_on(database)
        start.wait()
        while any(row_of(database, id_).finished_at is None for id_ in ids):
            due = runner.find_due("webhooks")
            with suppress(ReplayLeasedError):
                if due is not None:
                    runner.run(due)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [row_of(database, id_).done for id_ in ids] == [30, 30, 30]
    assert requested(database) == [number + 3 for number in before]


def test_a_stopped_replay_resumes_where_it_was(database: Database) -> None:
    """A stopped replay does no further step; resumed, it continues behind its last one."""
    settled(database, 6)
    replay = started(database, rate=2)
    replays = replays_on(database)
    runner = runner_on(database, wait=after(0, lambda: bool(replays.stop(replay.id, who=WHO)) and False))
    stopped = runner.run(replay.id)
    waiting = runner.find_due("webhooks")

    replays.resume(replay.id, who=WHO)
    resumed = runner_on(database)
    row = resumed.run(resumed.find_due("webhooks") or "")

    assert (stopped.done, stopped.finished_at, waiting) == (2, None, None)
    assert (row.done, row.stopped_at, row.finished_at is not None) == (6, None, True)


def test_a_process_that_stops_leaves_the_replay_to_the_next(database: Database) -> None:
    """A process that stops leaves the replay to the next one, which need not wait for the lease to expire."""
    settled(database, 6)
    replay = started(database, rate=2)

    row = runner_on(database, wait=after(1, lambda: True)).run(replay.id)

    assert (row.done, row.finished_at, row.stopped_at) == (4, None, None)
    assert runner_on(database).find_due("webhooks") == replay.id


def test_a_long_delay_renews_the_lease_and_notices_a_stop(database: Database) -> None:
    """At a very low rate the lease is renewed in the delay, and a stop takes seconds."""
    settled(database, 3)
    replay = started(database, rate=0.01)
    rests: list[float] = []

    def wait(seconds: float) -> bool:
        if seconds:
            rests.append(seconds)
            assert runner_on(database).find_due("webhooks") is None
        if len(rests) == 2:
            replays_on(database).stop(replay.id, who=WHO)
        return False

    row = runner_on(database, wait=wait).run(replay.id)

    assert rests == [RENEW_SECONDS, RENEW_SECONDS]
    assert RENEW_SECONDS < LEASE_SECONDS
    assert (row.done, row.finished_at) == (1, None)


def test_a_command_runs_a_replay_that_waits(database: Database) -> None:
    """With no other process at it, `run_or_watch` runs the replay itself."""
    settled(database, 2)
    replay = started(database)

    row = runner_on(database).run_or_watch(replay.id)

    assert (row.done, row.finished_at is not None) == (2, True)


def test_a_command_watches_what_another_process_runs(database: Database) -> None:
    """While the service holds the lease, the command only reports its progress, and returns when the replay is over."""
    settled(database, 4)
    replay = started(database, rate=1)
    seen: list[tuple[int, bool]] = []
    waits: list[float] = []
    service = runner_on(database)

    def watch() -> bool:
        def wait(seconds: float) -> bool:
            waits.append(seconds)
            end_leases(database)
            service.run(replay.id)
            return False

        row = runner_on(database, wait=wait).run_or_watch(replay.id, lambda row, _waits: seen.append((row.done, True)))
        assert (row.done, row.finished_at is not None) == (4, True)
        return False

    runner_on(database, wait=after(1, watch)).run(replay.id)

    assert (seen, waits) == ([(2, True)], [WATCH_SECONDS])


def test_a_command_takes_over_when_the_other_process_dies(database: Database) -> None:
    """The lease of the dead process ends, and the command that watched runs the rest: each connection is read once."""
    settled(database, 4)
    before = requested(database)
    replay = started(database, rate=1)
    with suppress(Died):
        runner_on(database, wait=after(0, die)).run(replay.id)
    with database.write() as session:
        # The process that died could not release it.
        session.exec(update(TaskLeaseRow).values(holder="dead", until=database.now(LEASE_SECONDS)))
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        end_leases(database)
        return False

    row = runner_on(database, wait=wait).run_or_watch(replay.id)

    assert waits[0] == WATCH_SECONDS
    assert row.done == 4
    assert requested(database) == [number + 1 for number in before]


def test_the_service_runs_what_a_killed_command_left(database: Database) -> None:
    """A replay whose command was killed is due as soon as its lease has ended."""
    settled(database, 4)
    replay = started(database, rate=1)
    command, service = runner_on(database, wait=after(1, die)), runner_on(database)
    with suppress(Died):
        command.run_or_watch(replay.id)
    end_leases(database)

    due = service.find_due("webhooks")
    row = service.run(replay.id)

    assert due == replay.id
    assert (row.done, row.finished_at is not None) == (4, True)


def test_a_signal_ends_the_watching(database: Database) -> None:
    """Ctrl-C ends the watching; the replay is still another process's."""
    settled(database, 2)
    replay = started(database)
    with database.write() as session:
        held = {"name": f"{LEASE_PREFIX}{replay.id}", "holder": "other", "until": database.now(3600)}
        session.exec(database.insert(TaskLeaseRow).values(**held))

    row = runner_on(database, wait=lambda _seconds: True).run_or_watch(replay.id)

    assert (row.done, row.finished_at, row.stopped_at) == (0, None, None)
    assert [lease.holder for lease in leases(database)] == ["other"]


def test_an_unreachable_broker_does_not_stop_a_replay(database: Database) -> None:
    """The scheduler notifies workers that the replay could not notify."""
    settled(database, 3)
    replay = started(database)

    def call(_ids: object) -> None:
        raise OutOfReachError

    runner = ReplayRunner(database=database, notify_workers=call, holder="h", wait=lambda _seconds: False)

    assert runner.run(replay.id).done == 3


def test_the_oldest_waiting_replay_is_due(database: Database) -> None:
    """Oldest first, for each kind; a replay that has ended is not due."""
    subscribe(database)
    first, second = started(database).id, started(database).id
    events = started(database, "events", subscription="s1").id
    runner = runner_on(database)
    dues = [runner.find_due("webhooks"), runner.find_due("events")]
    runner.run(first)

    assert dues == [first, events]
    assert runner.find_due("webhooks") == second


def test_later_webhooks_are_not_replayed(database: Database) -> None:
    """A replay covers what was stored when it was created: later webhooks are read by themselves."""
    settled(database, 2)
    replay = started(database)
    settled(database, 5)

    row = runner_on(database).run(replay.id)

    assert (row.total, row.done) == (2, 2)


def test_a_replay_of_many_connections_is_scanned_in_batches(database: Database) -> None:
    """More connections than one statement scans are all replayed, once each."""
    subscribe(database)
    emit(database, *(f"c{number:04}" for number in range(450)))
    replay = started(database, "events", subscription="s1")

    row = runner_on(database).run(replay.id)

    again = [each.connection_id for each in deliveries(database) if each.replay_id == replay.id]
    assert (row.total, row.done) == (450, 450)
    assert again == [f"c{number:04}" for number in range(450)]


def test_a_replay_that_has_ended_leaves_no_lease(database: Database) -> None:
    """A replay that has ended leaves no lease, also if a process runs it once more."""
    replay = started(database)
    runner_on(database).run(replay.id)

    again = runner_on(database).run(replay.id)

    assert again.finished_at is not None
    assert leases(database) == []
    with database.read() as session:
        assert len(session.exec(select(ReplayRow)).all()) == 1
