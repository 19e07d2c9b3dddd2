"""Wake: call workers off the request path. A call that the broker does not take is a metric: the clock will call."""

import queue
import threading
from collections.abc import Callable, Collection

from runtime import logs
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics

log = logs.get(__name__)

LONGEST_QUEUE = 10_000
"""Calls that wait for the broker; beyond that it is too slow to be worth waiting for."""


class WorkerNotifier:
    """Calls workers from one thread of its own, for a broker may take seconds to say that it is away.

    Args:
        call: Calls workers for connections; raises ``OutOfReachError``.
        metrics: Counts what was lost.
    """

    def __init__(self, *, call: Callable[[Collection[str]], None], metrics: Metrics) -> None:
        self._call = call
        self._metrics = metrics
        self._queue: queue.Queue[str | None] = queue.Queue(LONGEST_QUEUE)
        self._thread = threading.Thread(target=self._run, name="wake", daemon=True)

    def __call__(self, connection_ids: Collection[str]) -> None:
        """Have workers called for these connections, soon. Returns at once."""
        for connection_id in connection_ids:
            try:
                self._queue.put_nowait(connection_id)
            except queue.Full:
                self._metrics.calls_lost.inc()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Make the calls that wait, as far as there is time, and end."""
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while (connection_id := self._queue.get()) is not None:
            try:
                self._call([connection_id])
            except OutOfReachError as error:
                self._metrics.calls_lost.inc()
                log.warning("worker not called", connection_id=connection_id, detail=str(error))
            except Exception:
                # Whatever it was, the next call may go through; the clock makes this one.
                self._metrics.calls_lost.inc()
                log.exception("worker not called", connection_id=connection_id)
