"""Composition root (dependency injection): creates the components of each process, and connects them.

No package below this one creates its own collaborators.
"""

import random
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from meldwatch.process.factories import (
    make_handler_pool,
    make_lease_holder_name,
    make_reconcile,
    make_replay_manager,
    make_signature_verifier,
    make_subscription_manager,
    make_token,
)
from meldwatch.process.handler_registration import HandlerRegistration
from meldwatch.process.http_server import HttpServer
from meldwatch.process.periodic_task import PRUNE_INTERVAL_SECONDS, PeriodicTask
from meldwatch.process.replay_task import ReplayTask
from meldwatch.process.supervisor import Component
from meldwatch.process.worker_threads import WorkerThreads
from runtime import broker as brokers
from runtime import logs
from runtime.clock import utcnow
from runtime.database import Database
from runtime.handlers.process_pool import HandlerPool
from runtime.metrics import Metrics
from runtime.net.meld_client import MeldClient
from runtime.net.push_client import PushClient
from runtime.net.ssrf_guard import SsrfGuard
from runtime.queues import deliveries, reads
from runtime.security.encryption import Encryption
from runtime.settings import Settings
from schemas.handler_protocol import Handler
from schemas.message_names import DELIVERY_ACTOR
from schemas.push import PUSH_TIMEOUT_SECONDS
from schemas.replays import FILTER_MODELS, ReplayKind
from service.app import create_app
from service.feed.notifier import FeedNotifier
from service.feed.pg_listener import PgListener
from service.ingest.endpoint import WebhookEndpoint
from service.ingest.inbox import Inbox
from service.ingest.webhook_insert import make_webhook_table
from service.ingest.worker_notifier import WorkerNotifier
from service.rejected.queue import RejectionQueue
from service.rejected.store import RejectionStore
from service.replay.runner import ReplayRunner
from service.resources.event_stream import MAX_STREAM_THREADS
from service.scheduler.loop import Scheduler
from workers.actors import declare_actors
from workers.delivery.dispatcher import DeliveryDispatcher
from workers.delivery.handler_subscriptions import register_handlers
from workers.delivery.transport import DeliveryTransport
from workers.history.projection import project_mirrors
from workers.refetch.refetch import Refetcher
from workers.retention.prune import Prune

log = logs.get_logger(__name__)

API_THREADS = 8 + MAX_STREAM_THREADS
DELIVERY_LEASE_MARGIN_SECONDS = 10.0
"""How much longer than any push its lease lasts, so that a running push never loses its lease."""

SPARE_CONNECTIONS = 8
"""Size of the connection pool beyond one connection for each thread of the API and of the workers: for the others.

The connection of the PostgreSQL listener is not from the pool.
"""


class ProcessComposition:
    """The components of one process, and what they share: settings, metrics, database, broker, feed.

    ``web``, ``worker`` and ``clock`` each add their components; ``up`` adds those of all three.

    Args:
        settings: The settings.
        threads: The number of concurrent reads, and of concurrent pushes, of a process with workers.

    Attributes:
        components: In the order in which they start.
        feed_listeners: Called after each commit of this process that emitted events.
    """

    def __init__(self, settings: Settings, *, threads: int = 0) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.database = Database(
            settings.database_url.get_secret_value(), pool_size=API_THREADS + SPARE_CONNECTIONS + 2 * threads
        )
        self.broker = brokers.connect(settings.broker_url.get_secret_value())
        self.feed = FeedNotifier(database=self.database)
        self.components: list[Component] = []
        self.feed_listeners: list[Callable[[], None]] = []
        self._threads = threads

    def release_leases_of_previous_process(self) -> None:
        """Release all leases. Only for SQLite, which one process at a time serves: the previous process has ended."""
        with self.database.write() as session:
            reads.release_all(session)
            deliveries.release_all(session)

    def add_worker(self) -> None:
        """Add the threads that read Meld, those that push, and the handler processes.

        Raises:
            SettingsError: If a handler module cannot be imported, or has no handler.
        """
        meld = MeldClient.from_settings(self.settings, connections=self._threads)
        refetcher = Refetcher(
            database=self.database,
            reader=meld,
            notify_workers=self._notify_workers,
            notify_dispatchers=self._notify_dispatchers,
            clock=utcnow,
            lease_seconds=self.settings.lease_seconds,
            new_token=make_token,
            jitter=random.SystemRandom().random,
            metrics=self.metrics,
            notify_feed=self._notify_feed,
        )
        handler_pool = make_handler_pool(self.settings)
        handlers = handler_pool.start()
        if handlers:
            self.components.append(HandlerRegistration(partial(self._register_handlers, handlers)))
        deliver = self._make_dispatcher(handler_pool)
        declare_actors(self.broker, refetcher, deliver)
        self.components.append(
            WorkerThreads(self.broker, refetcher, deliver, threads=self._threads, end_handlers=handler_pool.close)
        )

    def _register_handlers(self, handlers: Sequence[Handler]) -> None:
        with self.database.write() as session:
            register_handlers(self.database, session, handlers, new_id=make_token)
        log.info("handlers", names=[handler.name for handler in handlers])

    def _make_dispatcher(self, handler_pool: HandlerPool) -> DeliveryDispatcher:
        push = PushClient(guard=SsrfGuard(self.settings.push_allowed_networks), connections=self._threads)
        return DeliveryDispatcher(
            database=self.database,
            sender=DeliveryTransport(http=push, handlers=handler_pool),
            encryption=Encryption(self.settings.encryption_keys),
            notify=self._notify_dispatchers,
            clock=utcnow,
            lease_seconds=PUSH_TIMEOUT_SECONDS + DELIVERY_LEASE_MARGIN_SECONDS,
            new_token=make_token,
            jitter=random.SystemRandom().random,
            metrics=self.metrics,
            threads=self._threads,
        )

    def add_clock(self) -> None:
        """Add the scheduler, the periodic tasks (prune, reconcile), and the tasks that run replays."""
        holder = make_lease_holder_name()
        fresh_seconds = self.settings.reread_after_seconds
        scheduler = Scheduler(
            database=self.database,
            notify_readers=self._notify_workers,
            notify_dispatchers=self._notify_dispatchers,
            holder=holder,
            fresh_seconds=fresh_seconds,
        )
        self.components.append(scheduler)
        self._add_prune(holder)
        if self.settings.reconcile_every_seconds:
            self._add_reconcile(holder, self.settings.reconcile_every_seconds)
        self.components += [self._make_replay_task(kind, holder) for kind in FILTER_MODELS]

    def _add_prune(self, holder: str) -> None:
        is_stopping = threading.Event()
        prune = Prune(
            database=self.database,
            settings=self.settings,
            holder=holder,
            wait=is_stopping.wait,
            metrics=self.metrics,
        )
        task = PeriodicTask(
            "prune",
            is_due=prune.is_due,
            run=lambda: prune.run(who="clock"),
            every_seconds=PRUNE_INTERVAL_SECONDS,
            is_stopping=is_stopping,
        )
        self.components.append(task)

    def _add_reconcile(self, holder: str, every_seconds: float) -> None:
        is_stopping = threading.Event()
        reconcile = make_reconcile(
            self.settings,
            self.database,
            call=self._notify_workers,
            holder=holder,
            wait=is_stopping.wait,
            notify=self._notify_feed,
        )

        def run() -> dict[str, Any]:
            report = reconcile.run()
            return {"listed": report.listed, **{str(kind): number for kind, number in report.drift.items()}}

        task = PeriodicTask(
            "reconcile", is_due=reconcile.is_due, run=run, every_seconds=every_seconds, is_stopping=is_stopping
        )
        self.components.append(task)

    def _make_replay_task(self, kind: ReplayKind, holder: str) -> ReplayTask:
        is_stopping = threading.Event()
        runner = ReplayRunner(
            database=self.database, notify_workers=self._notify_workers, holder=holder, wait=is_stopping.wait
        )
        return ReplayTask(runner, kind, is_stopping=is_stopping)

    def add_web(self, *, host: str, port: int) -> HttpServer:
        """Add the HTTP server, with the webhook inbox and the worker notifier behind it; return the server.

        Raises:
            SettingsError: If the server cannot listen on the address.
        """
        notifier = WorkerNotifier(enqueue=self._notify_workers, metrics=self.metrics)
        encryption = Encryption(self.settings.encryption_keys)
        inbox = Inbox(
            table=make_webhook_table(self.database, encryption), notify_workers=notifier, metrics=self.metrics
        )
        rejection_store = RejectionStore(database=self.database, encryption=encryption)
        rejections = RejectionQueue(insert=rejection_store.insert, metrics=self.metrics)
        endpoint = WebhookEndpoint(
            verifier=make_signature_verifier(self.settings),
            store=inbox.put,
            reject=rejections,
            clock=utcnow,
            metrics=self.metrics,
        )
        app = create_app(
            settings=self.settings,
            database=self.database,
            clock=utcnow,
            webhook_endpoint=endpoint,
            notify_workers=notifier,
            ping_broker=partial(brokers.ping, self.broker),
            feed=self.feed,
            subscription_manager=make_subscription_manager(self.settings, self.database),
            replay_manager=make_replay_manager(self.database),
            metrics=self.metrics,
            views=project_mirrors,
        )
        server = HttpServer(app, host=host, port=port, on_stop=self.feed.close)
        if self.database.is_postgres:
            self.components.append(PgListener(database=self.database, notify=self.feed.notify))
        self.components += [notifier, inbox, rejections, server]
        return server

    def close(self) -> None:
        """Close the broker and the database, after the components have stopped."""
        self.broker.close()
        self.database.close()

    def _notify_workers(self, connection_ids: Collection[str]) -> None:
        brokers.enqueue(self.broker, connection_ids)

    def _notify_dispatchers(self, subscription_ids: Collection[str]) -> None:
        brokers.enqueue(self.broker, subscription_ids, DELIVERY_ACTOR)

    def _notify_feed(self) -> None:
        self.feed.notify()
        for listener in self.feed_listeners:
            listener()
