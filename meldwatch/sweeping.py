"""The scheduled reconcile as a part of a process: whichever process finds it due does it, one at a time."""

import threading

from runtime import logs
from runtime.errors import MeldwatchError
from service.reconcile import Reconcile

log = logs.get(__name__)

LOOK_SECONDS = 10.0


class Sweeping:
    """Runs a reconcile whenever one is due.

    Args:
        reconcile: Runs it; its ``wait`` must be this part's ``is_stopping.wait``.
        every_seconds: How often.
        is_stopping: Set when the process ends.
    """

    def __init__(self, reconcile: Reconcile, *, every_seconds: float, is_stopping: threading.Event) -> None:
        self._reconcile = reconcile
        self._every_seconds = every_seconds
        self._is_stopping = is_stopping
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End it after the page that it is at; the next process goes on behind that."""
        self._is_stopping.set()
        self._thread.join(2)

    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping.wait(min(LOOK_SECONDS, self._every_seconds)):
            try:
                if self._reconcile.is_due(self._every_seconds):
                    report = self._reconcile.run()
                    log.info("reconciled", listed=report.listed, **report.drift)
            except MeldwatchError as error:
                log.warning("not reconciled", detail=str(error))
            except Exception:
                # Whatever it was, the next look may do better.
                log.exception("not reconciled")
