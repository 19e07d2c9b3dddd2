"""Worker threads component: Dramatiq's thread pools for reads of Meld and for deliveries; drain on shutdown."""

import threading
from collections.abc import Callable

import dramatiq

from runtime import logs
from runtime.errors import OutOfReachError
from schemas.message_names import DELIVERY_ACTOR, REFETCH_ACTOR
from workers.delivery.dispatcher import DeliveryDispatcher
from workers.refetch.refetch import Refetcher

log = logs.get_logger(__name__)

POLL_MILLISECONDS = 20
"""Poll interval of an idle worker in Redis. Dramatiq's default of a second would be most of an event's latency."""

STOP_MILLISECONDS = 3_000
"""Drain timeout. The lease of a read that takes longer is released, and its response is ignored."""


class WorkerThreads:
    """Threads that take messages from the broker and run the actors.

    Reads of Meld and pushes have separate threads: a slow consumer must not delay the mirror.

    Args:
        broker: The broker, with the actors declared.
        refetcher: Releases the leases of reads that do not end in time.
        dispatcher: Releases the leases of deliveries that do not end in time.
        threads: The number of concurrent reads, and of concurrent pushes.
        end_handlers: Ends the handlers that still run, before their deliveries are released.
    """

    def __init__(
        self,
        broker: dramatiq.Broker,
        refetcher: Refetcher,
        dispatcher: DeliveryDispatcher,
        *,
        threads: int,
        end_handlers: Callable[[], None] = lambda: None,
    ) -> None:
        self._end_handlers = end_handlers
        self._broker = broker
        self._refetcher = refetcher
        self._dispatcher = dispatcher
        self._workers = [
            dramatiq.Worker(broker, queues={queue}, worker_threads=threads, worker_timeout=POLL_MILLISECONDS)
            for queue in (REFETCH_ACTOR, DELIVERY_ACTOR)
        ]

    def start(self) -> None:
        """Start the threads."""
        # Dramatiq's own command emits this signal; middleware starts its threads when it gets it.
        self._broker.emit_after("process_boot")
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Drain: take no more messages, wait for running work, then release the leases of what still runs."""
        self._dispatcher.stop()
        stopping = [
            threading.Thread(target=worker.stop, kwargs={"timeout": STOP_MILLISECONDS}) for worker in self._workers
        ]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        self._end_handlers()
        try:
            self._refetcher.release_leases()
            self._dispatcher.release_leases()
        except OutOfReachError:
            log.warning("leases not released; they will expire")

    def is_alive(self) -> bool:
        """Return whether every thread runs: Dramatiq does not replace a thread that died."""
        threads = [thread for worker in self._workers for thread in (*worker.workers, *worker.consumers.values())]
        return all(thread.is_alive() for thread in threads)
