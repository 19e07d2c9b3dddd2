import threading
from collections.abc import Iterator
from contextlib import contextmanager

from meldwatch.process.replay_task import ReplayTask
from runtime.database import Database
from runtime.errors import OutOfReachError
from schemas.replays import ReplayKind
from schemas.tables import ReplayRow
from service.replay.runner import Progress, ReplayRunner
from tests.service.replay.replay_helpers import row_of, started
from tests.support.polling import eventually
from tests.support.scripted_consumer import deliveries, emit, subscribe
from tests.support.webhook_factory import body, store


class FailingRunner(ReplayRunner):
    """A runner that first raises the given errors, one per call."""

    failures = iter(())

    def run(self, replay_id: str, progress: Progress = lambda _row, _waits: None) -> ReplayRow:
        """Raise the next error, or run."""
        for failure in self.failures:
            raise failure
        return super().run(replay_id, progress)


@contextmanager
def running_task(database: Database, kind: ReplayKind, *failures: Exception) -> Iterator[ReplayTask]:
    is_stopping = threading.Event()
    runner = FailingRunner(database=database, notify_workers=lambda _ids: None, holder="task", wait=is_stopping.wait)
    runner.failures = iter(failures)
    task = ReplayTask(runner, kind, is_stopping=is_stopping)
    task.start()
    yield task
    task.stop()


def test_it_runs_waiting_replays(database: Database) -> None:
    """It runs one replay after another, and only those of its kind."""
    store(database, body("c1"))
    subscribe(database)
    emit(database, "c1")
    first, second = started(database), started(database, rate=5)
    events = started(database, "events", subscription="s1")

    with running_task(database, "webhooks") as task:
        eventually(lambda: row_of(database, second.id).finished_at is not None, 30, message="the second")

    eventually(lambda: not task.is_alive(), 30, message="the end of the task")
    assert row_of(database, first.id).done == 1
    assert row_of(database, events.id).done == 0


def test_it_survives_errors(database: Database) -> None:
    """Neither a database that does not answer nor an unexpected error ends the task or the replay."""
    subscribe(database)
    emit(database, "c1")
    replay = started(database, "events", subscription="s1")

    with running_task(database, "events", OutOfReachError("outage"), ZeroDivisionError()) as task:
        eventually(lambda: row_of(database, replay.id).finished_at is not None, 30, message="the end")
        assert task.is_alive()

    assert [row.replay_id for row in deliveries(database)] == [None, replay.id]


def test_it_ends_at_once(database: Database) -> None:
    """A replay at a low rate does not delay the end of its process; it keeps its cursor."""
    store(database, body("c1"), body("c2"))
    replay = started(database, rate=0.01)

    with running_task(database, "webhooks") as task:
        eventually(lambda: row_of(database, replay.id).done == 1, 30, message="the first step")

    eventually(lambda: not task.is_alive(), 30, message="the end of the task")
    assert row_of(database, replay.id).finished_at is None
