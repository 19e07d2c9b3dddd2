"""Notification of workers about new webhooks: enqueues broker messages in a background thread, off the request path.

If the broker rejects a message, it is counted as lost; the scheduler sends another.
"""

import queue
import threading
from collections.abc import Callable, Collection

from runtime import logs
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics

log = logs.get_logger(__name__)

MAX_QUEUE_LENGTH = 10_000
"""Connection ids that wait for the broker; further ones are counted as lost."""


class WorkerNotifier:
    """Bounded queue and thread that enqueue messages for workers. An unreachable broker can block for seconds.

    Args:
        enqueue: Enqueues a message for each connection id; raises ``OutOfReachError``.
        metrics: Counts lost notifications.
    """

    def __init__(self, *, enqueue: Callable[[Collection[str]], None], metrics: Metrics) -> None:
        self._enqueue = enqueue
        self._metrics = metrics
        self._queue: queue.Queue[str | None] = queue.Queue(MAX_QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._run, name="worker-notifier", daemon=True)

    def __call__(self, connection_ids: Collection[str]) -> None:
        """Notify workers of these connections, soon. Returns at once."""
        for connection_id in connection_ids:
            try:
                self._queue.put_nowait(connection_id)
            except queue.Full:
                self._metrics.failed_notifications.inc()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Send the waiting notifications, for at most this many seconds, and stop the thread."""
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def is_alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while (connection_id := self._queue.get()) is not None:
            try:
                self._enqueue([connection_id])
            except OutOfReachError as error:
                self._metrics.failed_notifications.inc()
                log.warning("worker not notified", connection_id=connection_id, detail=str(error))
            except Exception:
                # The thread must survive any error; the scheduler sends this notification again.
                self._metrics.failed_notifications.inc()
                log.exception("worker not notified", connection_id=connection_id)
