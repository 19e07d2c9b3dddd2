"""Composition: the parts of each process, wired once. Nothing below this folder makes its own collaborators."""

import random
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from meldwatch.process.factories import (
    holder_name,
    hosts_of,
    new_token,
    reconcile_of,
    replays_of,
    subscribe_of,
    verifier_of,
)
from meldwatch.process.handler_registration import HandlerRegistration
from meldwatch.process.http_server import HttpServer
from meldwatch.process.periodic_task import PeriodicTask
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
from schemas.message_names import DELIVER
from schemas.push import PUSH_SECONDS
from schemas.replays import FILTERS, ReplayKind
from service.app import create_app
from service.feed.notifier import FeedNotifier
from service.feed.pg_listener import PgListener
from service.ingest.endpoint import WebhookEndpoint
from service.ingest.inbox import Inbox
from service.ingest.webhook_insert import table_for
from service.ingest.worker_notifier import WorkerNotifier
from service.rejected.queue import RejectionQueue
from service.rejected.store import RejectionStore
from service.replay.runner import ReplayRunner
from service.resources.event_stream import THREADS as STREAM_THREADS
from service.scheduler.loop import Scheduler
from workers.actors import declare
from workers.delivery.dispatcher import DeliveryDispatcher
from workers.delivery.handler_subscriptions import enlist
from workers.delivery.transport import DeliveryTransport
from workers.history.projection import views
from workers.refetch.refetch import Refetch
from workers.retention.prune import Prune

log = logs.get(__name__)

API_THREADS = 8 + STREAM_THREADS
SPARE_SECONDS = 10.0
"""How much longer than any push its lease lasts, so that a living sender is never overtaken."""

PRUNE_SECONDS = 86400.0
"""How often the clock has rows removed that need not be kept any more."""

SPARE_CONNECTIONS = 8
"""Connections to the database beside those of the API's and the workers' threads: for the other parts.

The one that listens is none of the pool's.
"""


class ProcessComposition:
    """The parts of one process, and what they share.

    ``web``, ``worker`` and ``clock`` add parts; ``up`` adds all three. ``parts`` is in the order of starting.
    """

    def __init__(self, settings: Settings, *, threads: int = 0) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.database = Database(
            settings.database_url.get_secret_value(), pool_size=API_THREADS + SPARE_CONNECTIONS + 2 * threads
        )
        self.broker = brokers.connect(settings.broker_url.get_secret_value())
        self.feed = FeedNotifier(database=self.database)
        self.parts: list[Component] = []
        self.listeners: list[Callable[[], None]] = []
        self._threads = threads

    def start_alone(self) -> None:
        """Free what a process before this one had claimed: the contract lets one process at a time serve SQLite."""
        with self.database.write() as session:
            reads.forget_calls(session)
            deliveries.forget_calls(session)

    def add_worker(self) -> None:
        """Add the threads that read Meld, those that push, and the handlers in Python.

        Raises:
            SettingsError: Where a module with handlers cannot be imported, or has none.
        """
        meld = MeldClient.from_settings(self.settings, connections=self._threads)
        refresh = Refetch(
            database=self.database,
            reader=meld,
            call=self._call,
            push=self._push,
            clock=utcnow,
            lease_seconds=self.settings.lease_seconds,
            token=new_token,
            jitter=random.SystemRandom().random,
            metrics=self.metrics,
            notify=self._notify,
        )
        hosts = hosts_of(self.settings)
        handlers = hosts.load()
        if handlers:
            self.parts.append(HandlerRegistration(partial(self._enlist, handlers)))
        deliver = self._deliver(hosts)
        declare(self.broker, refresh, deliver)
        self.parts.append(WorkerThreads(self.broker, refresh, deliver, threads=self._threads, cut=hosts.close))

    def _enlist(self, handlers: Sequence[Handler]) -> None:
        with self.database.write() as session:
            enlist(self.database, session, handlers, new_id=new_token)
        log.info("handlers", names=[handler.name for handler in handlers])

    def _deliver(self, hosts: HandlerPool) -> DeliveryDispatcher:
        push = PushClient(guard=SsrfGuard(self.settings.push_allowed_networks), connections=self._threads)
        return DeliveryDispatcher(
            database=self.database,
            sender=DeliveryTransport(push=push, run=hosts),
            vault=Encryption(self.settings.encryption_keys),
            call=self._push,
            clock=utcnow,
            lease_seconds=PUSH_SECONDS + SPARE_SECONDS,
            token=new_token,
            jitter=random.SystemRandom().random,
            metrics=self.metrics,
            threads=self._threads,
        )

    def add_clock(self) -> None:
        """Add the clock, what it keeps the time of, prune and reconcile, and what goes on with replays."""
        holder = holder_name()
        fresh_seconds = self.settings.reread_after_seconds
        clock = Scheduler(
            database=self.database, call=self._call, push=self._push, holder=holder, fresh_seconds=fresh_seconds
        )
        self.parts.append(clock)
        self._add_prune(holder)
        if self.settings.reconcile_every_seconds:
            self._add_reconcile(holder, self.settings.reconcile_every_seconds)
        self.parts += [self._replaying(kind, holder) for kind in FILTERS]

    def _add_prune(self, holder: str) -> None:
        is_stopping = threading.Event()
        prune = Prune(
            database=self.database,
            settings=self.settings,
            holder=holder,
            wait=is_stopping.wait,
            metrics=self.metrics,
        )
        chore = PeriodicTask(
            "prune",
            is_due=prune.is_due,
            run=lambda: prune.run(who="clock"),
            every_seconds=PRUNE_SECONDS,
            is_stopping=is_stopping,
        )
        self.parts.append(chore)

    def _add_reconcile(self, holder: str, every_seconds: float) -> None:
        is_stopping = threading.Event()
        reconcile = reconcile_of(
            self.settings, self.database, call=self._call, holder=holder, wait=is_stopping.wait, notify=self._notify
        )

        def run() -> dict[str, Any]:
            report = reconcile.run()
            return {"listed": report.listed, **{str(kind): number for kind, number in report.drift.items()}}

        chore = PeriodicTask(
            "reconcile", is_due=reconcile.is_due, run=run, every_seconds=every_seconds, is_stopping=is_stopping
        )
        self.parts.append(chore)

    def _replaying(self, kind: ReplayKind, holder: str) -> ReplayTask:
        is_stopping = threading.Event()
        player = ReplayRunner(
            database=self.database, call=self._call, holder=holder, wait=is_stopping.wait, is_attended=False
        )
        return ReplayTask(player, kind, is_stopping=is_stopping)

    def add_web(self, *, host: str, port: int) -> HttpServer:
        """Add the server, with the inbox and the calls to workers behind it; return it.

        Raises:
            SettingsError: Where the address cannot be listened on.
        """
        wake = WorkerNotifier(call=self._call, metrics=self.metrics)
        vault = Encryption(self.settings.encryption_keys)
        inbox = Inbox(table=table_for(self.database, vault), wake=wake, metrics=self.metrics)
        evidence = RejectionStore(database=self.database, vault=vault)
        reject = RejectionQueue(keep=evidence.keep, metrics=self.metrics)
        receive = WebhookEndpoint(
            verifier=verifier_of(self.settings),
            store=inbox.put,
            reject=reject,
            clock=utcnow,
            metrics=self.metrics,
        )
        app = create_app(
            settings=self.settings,
            database=self.database,
            clock=utcnow,
            receive=receive,
            wake=wake,
            ping_broker=partial(brokers.ping, self.broker),
            feed=self.feed,
            subscribe=subscribe_of(self.settings, self.database),
            replay=replays_of(self.database),
            metrics=self.metrics,
            views=views,
        )
        server = HttpServer(app, host=host, port=port, on_stop=self.feed.close)
        if self.database.is_postgres:
            self.parts.append(PgListener(database=self.database, notify=self.feed.notify))
        self.parts += [wake, inbox, reject, server]
        return server

    def close(self) -> None:
        """Close what the parts shared, after they have stopped."""
        self.broker.close()
        self.database.close()

    def _call(self, connection_ids: Collection[str]) -> None:
        brokers.call(self.broker, connection_ids)

    def _push(self, subscription_ids: Collection[str]) -> None:
        brokers.call(self.broker, subscription_ids, DELIVER)

    def _notify(self) -> None:
        self.feed.notify()
        for listener in self.listeners:
            listener()
