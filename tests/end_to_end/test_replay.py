"""Replays in the worst of worlds: in random histories, and of the real program, which is killed meanwhile."""

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
from tests.support.soak import rounds
from tests.support.table_snapshot import assert_unchanged
from workers.history.rebuild import Rebuild
from workers.refetch.preview import RefetchPreview

SEEDS = {"sqlite": rounds(3), "postgres": rounds(2)}
MOST_WAITS = 60
DEATHS = 0.1
COUNT = 12


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest) -> Iterator[tuple[str, Database, Clock]]:
    """A fresh database whose time is moved by hand, of each kind."""
    with timeless(request.getfixturevalue(f"{request.param}_url")) as (database, clock):
        yield request.param, database, clock


class Replayed(History):
    """A history in which stored webhooks are replayed again and again, by processes that die, and foreseen before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.replays = ReplayManager(database=self.database, new_id=map("replay-{:04}".format, range(10_000)).__next__)
        self.foreseen = 0
        self._left: list[str] = []

    def run(self) -> None:
        """Live through it, and bring every replay to its end."""
        super().run()
        for replay_id in self._left:
            self._runner(self._wait_on).run(replay_id)
        self._run_to_the_end()
        self.look_back()

    def look_back(self) -> None:
        """See that mirror and events are what the reads amount to, and that no event says what did not change."""
        findings = list(Rebuild(database=self.database, clock=self.clock, chunk=50).check(lambda _count: None))
        assert findings == []
        with self.database.read() as session:
            events = session.exec(select(EventRow).order_by(col(EventRow.connection_id), col(EventRow.sequence))).all()
        for _id, told in groupby(events, lambda event: event.connection_id):
            status: Any = None
            for event in told:
                previous, current = event.data["previous"], event.data["current"]
                assert previous != current
                if "status" in current:
                    assert previous == status
                    status = current

    def _act(self) -> None:
        super()._act()
        if self.random.random() < 0.5:
            self._schedule(self._pause(), self._replay)

    def _replay(self) -> None:
        before = self._mirror()
        self._foresee([*before])
        wish = self.random.choice(
            [{"all": True}, {"state": "failed"}, {"state": "pending"}, {"since": self.clock.now.isoformat()}]
            + [{"connection": id_} for id_ in before]
        )
        replay = self.replays.create(NewReplay.model_validate({"kind": "webhooks", "rate": 3, **wish}), who="history")
        self._left.append(replay.id)
        self._go_on()
        self.look_back()
        after = self._mirror()
        assert all(after[id_] >= seen for id_, seen in before.items())

    def _go_on(self) -> None:
        """Have a replay taken up, one that died before or a new one."""
        waits = iter(range(MOST_WAITS))

        def wait(seconds: float) -> bool:
            if seconds and (self.random.random() < DEATHS or next(waits, None) is None):
                raise KilledError
            return self._wait_on(seconds)

        with suppress(KilledError):
            runner = self._runner(wait)
            row = runner.run(runner.find_due("webhooks") or self._left[-1])
            if row.finished_at is not None and row.id in self._left:
                self._left.remove(row.id)

    def _runner(self, wait: Callable[[float], bool]) -> ReplayRunner:
        return ReplayRunner(database=self.database, notify_workers=self._notify, holder="history", wait=wait)

    def _wait_on(self, seconds: float) -> bool:
        if seconds:
            self._wait(seconds)
            self.scheduler.run_once()
        return False

    def _foresee(self, ids: list[str]) -> None:
        """Look ahead at some reads: nothing is written by that."""
        ahead = RefetchPreview(
            database=self.database, reader=Still(self), clock=self.clock, rate=1000, wait=lambda _s: False
        )
        # While reads are paused it looks at nothing.
        with assert_unchanged(self.database), suppress(OutOfReachError):
            self.foreseen += len(list(ahead.preview(self.random.sample(ids, min(2, len(ids))))))

    def _mirror(self) -> dict[str, tuple[Any, int]]:
        """Return how young each row is, and how much it has told: neither may ever be less."""
        with self.database.read() as session:
            return {row.id: (row.observed_at, row.sequence) for row in session.exec(select(ConnectionRow)).all()}


class Still:
    """A Meld that says what is true, in no time."""

    def __init__(self, history: History) -> None:
        self._history = history

    def read(self, connection_id: str) -> ReadOutcome:
        """Answer with the present state."""
        return self._history._connection(connection_id, ScriptedRead())


def test_replays_regress_nothing_and_tell_only_what_changed(world: tuple[str, Database, Clock]) -> None:
    """In random histories, with replays at random that die and go on, beside everything that goes wrong at any time.

    At every moment the fold equals the live rows, no row gets older, and a dry run writes nothing; in the end every
    state is the truth.
    """
    kind, database, clock = world
    wrong = {}
    foreseen = 0
    for seed in range(SEEDS[kind]):
        with closing(Replayed(database, clock, seed, is_notified=True)) as history:
            history.run()
            wrong[seed] = history.differences()
            foreseen += history.foreseen
            with database.read() as session:
                ends = session.exec(select(ReplayRow.finished_at)).all()
            assert None not in ends

    assert not any(wrong.values()), wrong
    assert foreseen


@pytest.fixture(params=["embedded", "many"])
def resting(request: pytest.FixtureRequest) -> Deployment:
    """A set-up that knows some connections, all of which have changed since without a word; nothing is owed."""
    deployment: Deployment = request.getfixturevalue(request.param)
    started = deployment.start_all()
    ids = [deployment.meld.world.add().id for _ in range(COUNT)]
    for id_ in ids:
        deployment.send_webhook(id_)
    eventually(lambda: len(deployment.mirror()) == COUNT and deployment.has_no_pending_webhooks(), 60, message="the mirror")
    for process in started:
        stop_process(process, signal.SIGTERM)
    with closing(Database(deployment.environment["MELDWATCH_DATABASE_URL"])) as database, database.write() as session:
        session.exec(update(ReadRequestRow).values(requested=ReadRequestRow.completed, due_at=None, woken_at=None))
    for id_ in ids:
        deployment.meld.world.break_connection(id_)
    deployment.start_all()
    assert not deployment.mirror_matches_meld()
    return deployment


def replays(deployment: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = deployment.get("/api/replays")["replays"]
    return found


def is_begun(deployment: Deployment) -> bool:
    """Return whether a replay is somewhere in the middle."""
    return any(0 < each["done"] < COUNT for each in replays(deployment))


def causes(deployment: Deployment) -> list[tuple[str, str]]:
    """Return which connections changed by a replay, and by which."""
    events = [event for event in deployment.events() if event["data"]["cause"]["trigger"] == "replay"]
    return sorted((event["subject"], event["data"]["cause"]["replay_id"]) for event in events)


def test_a_command_killed_midway_is_resumed(resting: Deployment) -> None:
    """SIGKILL of `replay webhooks` in the middle: resumed, every connection was read since it began, none is lost."""
    ids = sorted(connection.id for connection in resting.meld.world.connections())
    command = resting.start("replay", "webhooks", "--all", "--rate", "2")
    eventually(lambda: is_begun(resting), 60, message="the middle")
    command.kill()
    command.wait()
    (killed,) = replays(resting)

    resumed = resting.run("replay", "webhooks", "--resume", killed["id"], "--rate", "100")

    assert resumed.returncode == 0, resumed.stderr
    eventually(resting.mirror_matches_meld, 60, message="the mirror")
    (ended,) = replays(resting)
    assert 0 < killed["done"] < COUNT
    assert killed["finished_at"] is None
    assert (ended["state"], ended["done"], ended["total"]) == ("finished", COUNT, COUNT)
    assert causes(resting) == [(id_, ended["id"]) for id_ in ids]


def test_a_service_killed_midway_goes_on_with_its_replay(resting: Deployment) -> None:
    """SIGKILL of the process that runs a replay over the API: the next one goes on with it by itself."""
    ids = sorted(connection.id for connection in resting.meld.world.connections())
    headers = {"Authorization": f"Bearer {TOKEN}"}
    wish = {"kind": "webhooks", "all": True, "rate": 2}
    begun = CLIENT.post(resting.url + "/api/replays", json=wish, headers=headers, timeout=10)
    assert begun.status_code == 202
    eventually(lambda: is_begun(resting), 60, message="the middle")
    killed = resting.processes[-1]
    killed.kill()
    killed.wait()
    resting.start("up" if resting.is_embedded else "clock")
    resting.wait_until_ready()

    eventually(lambda: replays(resting)[0]["state"] == "finished", 90, message="the end")
    eventually(resting.mirror_matches_meld, 60, message="the mirror")
    (ended,) = replays(resting)
    assert (ended["done"], ended["total"]) == (COUNT, COUNT)
    assert causes(resting) == [(id_, begun.json()["id"]) for id_ in ids]
