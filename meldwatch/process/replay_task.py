"""Replay task of a process: runs the replays of one kind that no other process runs, one after another."""

import threading

from runtime import logs
from runtime.errors import MeldwatchError
from schemas.replays import ReplayKind
from service.replay.runner import ReplayRunner

log = logs.get_logger(__name__)

POLL_SECONDS = 2.0
"""How often the task looks for a replay to run."""


class ReplayTask:
    """Runs waiting replays of a kind, also those that a process left when it ended or died.

    Args:
        runner: Runs a replay; its ``wait`` must be ``is_stopping.wait``.
        kind: The kind. A replay of webhooks may wait for Meld; with a task of their own, replays of events do not.
        is_stopping: Set when the process stops.
    """

    def __init__(self, runner: ReplayRunner, kind: ReplayKind, *, is_stopping: threading.Event) -> None:
        self._runner = runner
        self._kind = kind
        self._is_stopping = is_stopping
        self._thread = threading.Thread(target=self._run, name=f"replay {kind}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present step; another process resumes the replay."""
        self._is_stopping.set()
        self._thread.join(2)

    def is_alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping.wait(POLL_SECONDS):
            try:
                replay_id = self._runner.find_due(self._kind)
                if replay_id is not None:
                    row = self._runner.run(replay_id)
                    is_over = row.finished_at is not None
                    log.info("replayed", replay_id=replay_id, done=row.done, is_over=is_over, detail=row.error)
            except MeldwatchError as error:
                log.warning("not replayed", detail=str(error))
            except Exception:
                # The next attempt may succeed, whatever the error was.
                log.exception("not replayed")
