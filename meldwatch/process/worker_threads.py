"""The worker threads as a part of a process: Dramatiq's, run inside it."""

import threading
from collections.abc import Callable

import dramatiq

from runtime import logs
from runtime.errors import OutOfReachError
from schemas.message_names import DELIVER, REFRESH
from workers.delivery.dispatcher import DeliveryDispatcher
from workers.refetch.refetch import Refetch

log = logs.get(__name__)

POLL_MILLISECONDS = 20
"""How often an idle worker looks for messages in Redis. Dramatiq's second would be most of an event's latency."""

STOP_MILLISECONDS = 3_000
"""A read may take longer; its claim is given back then, and its answer thrown away."""


class WorkerThreads:
    """Threads that take messages from the broker and run its actors.

    Reads of Meld and pushes have threads of their own: a consumer that hangs must not hold up the mirror.

    Args:
        broker: The broker, its actors declared.
        refresh: Told to give back what will not be waited for.
        deliver: Likewise.
        threads: How many connections are read at once, and how many events are pushed at once.
        cut: Ends what still runs of pushes, and can be ended, before it is given back.
    """

    def __init__(
        self,
        broker: dramatiq.Broker,
        refresh: Refetch,
        deliver: DeliveryDispatcher,
        *,
        threads: int,
        cut: Callable[[], None] = lambda: None,
    ) -> None:
        self._cut = cut
        self._broker = broker
        self._refresh = refresh
        self._deliver = deliver
        self._workers = [
            dramatiq.Worker(broker, queues={queue}, worker_threads=threads, worker_timeout=POLL_MILLISECONDS)
            for queue in (REFRESH, DELIVER)
        ]

    def start(self) -> None:
        """Start the threads."""
        # Dramatiq's own command would say this; middleware that begins threads waits for it.
        self._broker.emit_after("process_boot")
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Take no more messages, give what is under way some time, and give the rest back."""
        self._deliver.stop()
        stopping = [
            threading.Thread(target=worker.stop, kwargs={"timeout": STOP_MILLISECONDS}) for worker in self._workers
        ]
        for each in stopping:
            each.start()
        for each in stopping:
            each.join()
        self._cut()
        try:
            self._refresh.give_back()
            self._deliver.give_back()
        except OutOfReachError:
            log.warning("claims not given back; their leases will end")

    def is_alive(self) -> bool:
        """Return whether every thread is there: Dramatiq never replaces one that died."""
        threads = [thread for each in self._workers for thread in (*each.workers, *each.consumers.values())]
        return all(thread.is_alive() for thread in threads)
