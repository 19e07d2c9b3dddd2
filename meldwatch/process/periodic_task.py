"""Component that runs a periodic task, such as prune or reconcile. Of several processes, one runs it at a time."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from runtime import logs
from runtime.errors import MeldwatchError

log = logs.get_logger(__name__)

POLL_SECONDS = 10.0
"""How often a process looks whether a task is due."""

PRUNE_INTERVAL_SECONDS = 86400.0
"""How often expired rows are deleted. The interval of the reconcile is a setting."""


class PeriodicTask:
    """Runs a task whenever it is due.

    Args:
        name: Its name in the log, such as ``reconcile``.
        is_due: Takes the interval in seconds, and returns whether the task is due.
        run: Runs the task, and returns fields for the log. It must wait with ``is_stopping.wait``.
        every_seconds: The interval.
        is_stopping: Set when the process stops.
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
        self._run_task = run
        self._every_seconds = every_seconds
        self._is_stopping = is_stopping
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current commit; the next process continues from there."""
        self._is_stopping.set()
        self._thread.join(2)

    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping.wait(min(POLL_SECONDS, self._every_seconds)):
            try:
                if self._is_due(self._every_seconds):
                    log.info("periodic task done", task=self._name, **self._run_task())
            except MeldwatchError as error:
                log.warning("periodic task failed", task=self._name, detail=str(error))
            except Exception:
                # The next attempt may succeed.
                log.exception("periodic task failed", task=self._name)
