"""Composition: the parts of each process, wired once. Nothing below this folder makes its own collaborators."""

import random
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from meldwatch.chore import Chore
from meldwatch.enlisting import Enlisting
from meldwatch.process import Part
from meldwatch.replaying import Replaying
from meldwatch.server import Server
from meldwatch.wiring import holder_name, hosts_of, new_token, reconcile_of, replays_of, subscribe_of, verifier_of
from meldwatch.working import Workers
from runtime import broker as brokers
from runtime import jobs, lanes, logs
from runtime.clock import utcnow
from runtime.database import Database
from runtime.guard import Guard
from runtime.hosts import Hosts
from runtime.meld import Meld
from runtime.metrics import Metrics
from runtime.push import Push
from runtime.settings import Settings
from runtime.vault import Vault
from schemas.handler import Handler
from schemas.jobs import DELIVER
from schemas.push import PUSH_SECONDS
from schemas.replays import FILTERS, ReplayKind
from service.app import create_app
from service.clock import ClockWork
from service.evidence import Evidence
from service.feed import Feed
from service.inbox import table_for
from service.listen import Listen
from service.player import Player
from service.receive import Receive
from service.reject import Reject
from service.store import Inbox
from service.stream import THREADS as STREAM_THREADS
from service.wake import Wake
from workers.actors import declare
from workers.deliver import Deliver
from workers.enlist import enlist
from workers.fold import views
from workers.prune import Prune
from workers.refresh import Refresh
from workers.send import Send

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


class Process:
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
        self.feed = Feed(database=self.database)
        self.parts: list[Part] = []
        self.listeners: list[Callable[[], None]] = []
        self._threads = threads

    def start_alone(self) -> None:
        """Free what a process before this one had claimed: the contract lets one process at a time serve SQLite."""
        with self.database.write() as session:
            jobs.forget_calls(session)
            lanes.forget_calls(session)

    def add_worker(self) -> None:
        """Add the threads that read Meld, those that push, and the handlers in Python.

        Raises:
            SettingsError: Where a module with handlers cannot be imported, or has none.
        """
        meld = Meld.from_settings(self.settings, connections=self._threads)
        refresh = Refresh(
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
            self.parts.append(Enlisting(partial(self._enlist, handlers)))
        deliver = self._deliver(hosts)
        declare(self.broker, refresh, deliver)
        self.parts.append(Workers(self.broker, refresh, deliver, threads=self._threads, cut=hosts.close))

    def _enlist(self, handlers: Sequence[Handler]) -> None:
        with self.database.write() as session:
            enlist(self.database, session, handlers, new_id=new_token)
        log.info("handlers", names=[handler.name for handler in handlers])

    def _deliver(self, hosts: Hosts) -> Deliver:
        push = Push(guard=Guard(self.settings.push_allowed_networks), connections=self._threads)
        return Deliver(
            database=self.database,
            sender=Send(push=push, run=hosts),
            vault=Vault(self.settings.encryption_keys),
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
        clock = ClockWork(
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
        chore = Chore(
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

        chore = Chore(
            "reconcile", is_due=reconcile.is_due, run=run, every_seconds=every_seconds, is_stopping=is_stopping
        )
        self.parts.append(chore)

    def _replaying(self, kind: ReplayKind, holder: str) -> Replaying:
        is_stopping = threading.Event()
        player = Player(
            database=self.database, call=self._call, holder=holder, wait=is_stopping.wait, is_attended=False
        )
        return Replaying(player, kind, is_stopping=is_stopping)

    def add_web(self, *, host: str, port: int) -> Server:
        """Add the server, with the inbox and the calls to workers behind it; return it.

        Raises:
            SettingsError: Where the address cannot be listened on.
        """
        wake = Wake(call=self._call, metrics=self.metrics)
        vault = Vault(self.settings.encryption_keys)
        inbox = Inbox(table=table_for(self.database, vault), wake=wake, metrics=self.metrics)
        evidence = Evidence(database=self.database, vault=vault)
        reject = Reject(keep=evidence.keep, metrics=self.metrics)
        receive = Receive(
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
        server = Server(app, host=host, port=port, on_stop=self.feed.close)
        if self.database.is_postgres:
            self.parts.append(Listen(database=self.database, notify=self.feed.notify))
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
