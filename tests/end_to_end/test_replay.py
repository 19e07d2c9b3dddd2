"""Replays in random histories, and replays of the real program that are killed midway."""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import groupby
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from runtime.database import Database
from runtime.errors import OutOfReachError
from schemas.meld.read_outcome import ReadOutcome
from schemas.replays import NewReplay
from schemas.tables import ConnectionRow, EventRow, ReadRequestRow, ReplayRow
from service.replay.manage import ReplayManager
from service.replay.runner import ReplayRunner
from simulator.faults.read_script import ScriptedRead
from tests.end_to_end.deployment import TOKEN, Deployment, stop_process
from tests.end_to_end.manual_time import Clock, timeless
from tests.end_to_end.random_history import History, KilledError
from tests.support.http import CLIENT
from tests.support.polling import eventually
from tests.support.random_rounds import rounds
from tests.support.table_snapshot import assert_unchanged
from workers.history.rebuild import Rebuild
from workers.refetch.preview import RefetchPreview

SEEDS = {"sqlite": rounds(3), "postgres": rounds(2)}
MAX_WAITS = 60
CRASH_RATE = 0.1
COUNT = 12


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest) -> Iterator[tuple[str, Database, Clock]]:
    """An empty database of each kind, with manual time."""
    with timeless(request.getfixturevalue(f"{request.param}_url")) as (database, clock):
        yield request.param, database, clock


class HistoryWithReplays(History):
    """A history in which stored webhooks are previewed and replayed repeatedly, by processes that crash."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.replays = ReplayManager(database=self.database, new_id=map("replay-{:04}".format, range(10_000)).__next__)
        self.previewed = 0
        self._unfinished: list[str] = []

    def run(self) -> None:
        """Run the history, and finish every replay."""
        super().run()
        for replay_id in self._unfinished:
            self._runner(self._wait_and_schedule).run(replay_id)
        self._run_to_the_end()
        self.check_projection()

    def check_projection(self) -> None:
        """Check that the projection equals mirror and events, and that each event contains a change."""
        findings = list(Rebuild(database=self.database, clock=self.clock, chunk=50).check(lambda _count: None))
        assert findings == []
        with self.database.read() as session:
            events = session.exec(select(EventRow).order_by(col(EventRow.connection_id), col(EventRow.sequence))).all()
        for _id, events_of_connection in groupby(events, lambda event: event.connection_id):
            status: Any = None
            for event in events_of_connection:
                previous, current = event.data["previous"], event.data["current"]
                assert previous != current
                if "status" in current:
                    assert previous == status
                    status = current

    def _change(self) -> None:
        super()._change()
        if self.random.random() < 0.5:
            self._schedule(self._time_until_change(), self._replay)

    def _replay(self) -> None:
        before = self._mirror()
        self._preview([*before])
        filter_ = self.random.choice(
            [{"all": True}, {"state": "failed"}, {"state": "pending"}, {"since": self.clock.now.isoformat()}]
            + [{"connection": id_} for id_ in before]
        )
        replay = self.replays.create(
            NewReplay.model_validate({"kind": "webhooks", "rate": 3, **filter_}), who="history"
        )
        self._unfinished.append(replay.id)
        self._run_replay()
        self.check_projection()
        after = self._mirror()
        assert all(after[id_] >= version for id_, version in before.items())

    def _run_replay(self) -> None:
        """Run an interrupted replay or a new one."""
        waits = iter(range(MAX_WAITS))

        def wait(seconds: float) -> bool:
            if seconds and (self.random.random() < CRASH_RATE or next(waits, None) is None):
                raise KilledError
            return self._wait_and_schedule(seconds)

        with suppress(KilledError):
            runner = self._runner(wait)
            row = runner.run(runner.find_due("webhooks") or self._unfinished[-1])
            if row.finished_at is not None and row.id in self._unfinished:
                self._unfinished.remove(row.id)

    def _runner(self, wait: Callable[[float], bool]) -> ReplayRunner:
        return ReplayRunner(database=self.database, notify_workers=self._notify, holder="history", wait=wait)

    def _wait_and_schedule(self, seconds: float) -> bool:
        if seconds:
            self._wait(seconds)
            self.scheduler.run_once()
        return False

    def _preview(self, ids: list[str]) -> None:
        """Preview some reads; a preview must write nothing."""
        preview = RefetchPreview(
            database=self.database, reader=CurrentStateReader(self), clock=self.clock, rate=1000, wait=lambda _s: False
        )
        # A preview reads nothing while the circuit breaker is open.
        with assert_unchanged(self.database), suppress(OutOfReachError):
            self.previewed += len(list(preview.preview(self.random.sample(ids, min(2, len(ids))))))

    def _mirror(self) -> dict[str, tuple[Any, int]]:
        """Return the read time and the sequence of each row; neither may ever decrease."""
        with self.database.read() as session:
            return {row.id: (row.observed_at, row.sequence) for row in session.exec(select(ConnectionRow)).all()}


class CurrentStateReader:
    """Reads Meld's current state, without faults or delays."""

    def __init__(self, history: History) -> None:
        self._history = history

    def read(self, connection_id: str) -> ReadOutcome:
        """Answer with the current state."""
        return self._history._connection(connection_id, ScriptedRead())


def test_replays_make_no_state_older_and_emit_only_changes(world: tuple[str, Database, Clock]) -> None:
    """In random histories with all faults, in which replays crash and resume.

    After each replay the projection equals the live rows, no row is older than before, and the preview wrote nothing;
    at the end the mirror matches Meld.
    """
    kind, database, clock = world
    wrong = {}
    previewed = 0
    for seed in range(SEEDS[kind]):
        with closing(HistoryWithReplays(database, clock, seed, is_notified=True)) as history:
            history.run()
            wrong[seed] = history.differences()
            previewed += history.previewed
            with database.read() as session:
                finish_times = session.exec(select(ReplayRow.finished_at)).all()
            assert None not in finish_times

    assert not any(wrong.values()), wrong
    assert previewed


@pytest.fixture(params=["embedded", "multi_process"])
def outdated(request: pytest.FixtureRequest) -> Deployment:
    """A set-up with an outdated mirror: all connections changed without a webhook, and no read is pending."""
    deployment: Deployment = request.getfixturevalue(request.param)
    started = deployment.start_all()
    ids = [deployment.meld.world.add().id for _ in range(COUNT)]
    for id_ in ids:
        deployment.send_webhook(id_)
    eventually(
        lambda: len(deployment.mirror()) == COUNT and deployment.has_no_pending_webhooks(), 60, message="the mirror"
    )
    for process in started:
        stop_process(process, signal.SIGTERM)
    with closing(Database(deployment.environment["MELDWATCH_DATABASE_URL"])) as database, database.write() as session:
        session.exec(update(ReadRequestRow).values(requested=ReadRequestRow.completed, due_at=None, woken_at=None))
    for id_ in ids:
        deployment.meld.world.break_connection(id_)
    deployment.start_all()
    assert not deployment.mirror_matches_meld()
    return deployment


def list_replays(deployment: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = deployment.get("/api/replays")["replays"]
    return found


def is_half_finished(deployment: Deployment) -> bool:
    """Return whether a replay has processed some connections, but not all."""
    return any(0 < each["done"] < COUNT for each in list_replays(deployment))


def list_replay_causes(deployment: Deployment) -> list[tuple[str, str]]:
    """Return the connections with events caused by a replay, and the replay's id."""
    events = [event for event in deployment.events() if event["data"]["cause"]["trigger"] == "replay"]
    return sorted((event["subject"], event["data"]["cause"]["replay_id"]) for event in events)


def test_a_killed_replay_command_is_resumed(outdated: Deployment) -> None:
    """SIGKILL of `replay webhooks` midway: after `--resume` it has read every connection."""
    ids = sorted(connection.id for connection in outdated.meld.world.connections())
    command = outdated.start("replay", "webhooks", "--all", "--rate", "2")
    eventually(lambda: is_half_finished(outdated), 60, message="a half-finished replay")
    command.kill()
    command.wait()
    (killed,) = list_replays(outdated)

    resumed = outdated.run("replay", "webhooks", "--resume", killed["id"], "--rate", "100")

    assert resumed.returncode == 0, resumed.stderr
    eventually(outdated.mirror_matches_meld, 60, message="a mirror that matches Meld")
    (finished,) = list_replays(outdated)
    assert 0 < killed["done"] < COUNT
    assert killed["finished_at"] is None
    assert (finished["state"], finished["done"], finished["total"]) == ("finished", COUNT, COUNT)
    assert list_replay_causes(outdated) == [(id_, finished["id"]) for id_ in ids]


def test_a_replay_continues_after_its_process_is_killed(outdated: Deployment) -> None:
    """SIGKILL of the process that runs a replay requested by the API: the next process continues it automatically."""
    ids = sorted(connection.id for connection in outdated.meld.world.connections())
    headers = {"Authorization": f"Bearer {TOKEN}"}
    replay = {"kind": "webhooks", "all": True, "rate": 2}
    created = CLIENT.post(outdated.url + "/api/replays", json=replay, headers=headers, timeout=10)
    assert created.status_code == 202
    eventually(lambda: is_half_finished(outdated), 60, message="a half-finished replay")
    killed = outdated.processes[-1]
    killed.kill()
    killed.wait()
    outdated.start("up" if outdated.is_embedded else "clock")
    outdated.wait_until_ready()

    eventually(lambda: list_replays(outdated)[0]["state"] == "finished", 90, message="a finished replay")
    eventually(outdated.mirror_matches_meld, 60, message="a mirror that matches Meld")
    (finished,) = list_replays(outdated)
    assert (finished["done"], finished["total"]) == (COUNT, COUNT)
    assert list_replay_causes(outdated) == [(id_, created.json()["id"]) for id_ in ids]
