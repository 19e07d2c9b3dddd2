"""The worker threads as a part of a process: Dramatiq's, run inside it."""

import dramatiq

from runtime import logs
from runtime.errors import OutOfReachError
from workers.refresh import Refresh

log = logs.get(__name__)

POLL_MILLISECONDS = 20
"""How often an idle worker looks for messages in Redis. Dramatiq's second would be most of an event's latency."""

STOP_MILLISECONDS = 3_000
"""A read may take longer; its claim is given back then, and its answer thrown away."""


class Workers:
    """Threads that take messages from the broker and run its actors.

    Args:
        broker: The broker, its actors declared.
        refresh: Told to give back what will not be waited for.
        threads: How many connections are read at once.
    """

    def __init__(self, broker: dramatiq.Broker, refresh: Refresh, *, threads: int) -> None:
        self._broker = broker
        self._refresh = refresh
        self._worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=POLL_MILLISECONDS)

    def start(self) -> None:
        """Start the threads."""
        # Dramatiq's own command would say this; middleware that begins threads waits for it.
        self._broker.emit_after("process_boot")
        self._worker.start()

    def stop(self) -> None:
        """Take no more messages, give the reads under way some time, and give the rest back."""
        self._worker.stop(timeout=STOP_MILLISECONDS)
        try:
            self._refresh.give_back()
        except OutOfReachError:
            log.warning("claims not given back; their leases will end")

    def is_alive(self) -> bool:
        """Return whether every thread is there: Dramatiq never replaces one that died."""
        return all(thread.is_alive() for thread in (*self._worker.workers, *self._worker.consumers.values()))
