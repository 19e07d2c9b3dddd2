"""What is done once in a while, as a part of a process: whichever process finds it due does it, one at a time."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from runtime import logs
from runtime.errors import MeldwatchError

log = logs.get(__name__)

LOOK_SECONDS = 10.0


class PeriodicTask:
    """Does a thing whenever it is due.

    Args:
        name: What it is called in the log: ``reconcile``.
        is_due: Returns whether it is time to.
        run: Does it, and returns what to say of it; whatever it waits with must be this part's ``is_stopping.wait``.
        every_seconds: How often it is due.
        is_stopping: Set when the process ends.
    """

    def __init__(
        self,
        name: str,
        *,
        is_due: Callable[[float], bool],
        run: Callable[[], Mapping[str, Any]],
        every_seconds: float,
        is_stopping: threading.Event,
    ) -> None:
        self._name = name
        self._is_due = is_due
        self._do = run
        self._every_seconds = every_seconds
        self._is_stopping = is_stopping
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End it after the commit that it is at; the next process goes on from there."""
        self._is_stopping.set()
        self._thread.join(2)

    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping.wait(min(LOOK_SECONDS, self._every_seconds)):
            try:
                if self._is_due(self._every_seconds):
                    log.info("chore done", chore=self._name, **self._do())
            except MeldwatchError as error:
                log.warning("chore not done", chore=self._name, detail=str(error))
            except Exception:
                # Whatever it was, the next look may do better.
                log.exception("chore not done", chore=self._name)
