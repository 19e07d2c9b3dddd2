"""Replays that nobody attends as a part of a process: those of one kind, one after the other, in whichever process."""

import threading

from runtime import logs
from runtime.errors import MeldwatchError
from schemas.replays import ReplayKind
from service.replay.runner import ReplayRunner

log = logs.get(__name__)

LOOK_SECONDS = 2.0


class ReplayTask:
    """Takes up whatever replay of a kind waits, also one that another process has left when it died.

    Args:
        player: Plays them; its ``wait`` must be this part's ``is_stopping.wait``.
        kind: So that a replay of webhooks, which may wait for Meld, holds up none of events.
        is_stopping: Set when the process ends.
    """

    def __init__(self, player: ReplayRunner, kind: ReplayKind, *, is_stopping: threading.Event) -> None:
        self._player = player
        self._kind = kind
        self._is_stopping = is_stopping
        self._thread = threading.Thread(target=self._run, name=f"replay {kind}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End it behind the step that it is at; the next process goes on from there."""
        self._is_stopping.set()
        self._thread.join(2)

    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping.wait(LOOK_SECONDS):
            try:
                replay_id = self._player.due(self._kind)
                if replay_id is not None:
                    row = self._player.play(replay_id)
                    is_over = row.finished_at is not None
                    log.info("replayed", replay_id=replay_id, done=row.done, is_over=is_over, detail=row.error)
            except MeldwatchError as error:
                log.warning("not replayed", detail=str(error))
            except Exception:
                # Whatever it was, the next look may do better.
                log.exception("not replayed")
