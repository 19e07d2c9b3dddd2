"""Composition: the parts of each process, wired once. Nothing below this folder makes its own collaborators."""

import base64
import os
import random
import socket
import sys
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import partial

from meldwatch.chores import pruning, reconciling
from meldwatch.enlisting import Enlisting
from meldwatch.process import Part
from meldwatch.server import Server
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
from service.app import create_app
from service.clock import ClockWork
from service.evidence import Evidence
from service.feed import Feed
from service.inbox import table_for
from service.listen import Listen
from service.receive import Receive
from service.reject import Reject
from service.reverify import Reverify
from service.store import Inbox
from service.stream import THREADS as STREAM_THREADS
from service.subscribe import Subscribe
from service.verify import Verifier, Window
from service.wake import Wake
from workers.actors import declare
from workers.deliver import Deliver
from workers.enlist import enlist
from workers.fold import views
from workers.refresh import Refresh
from workers.send import Send

log = logs.get(__name__)

API_THREADS = 8 + STREAM_THREADS
SPARE_SECONDS = 10.0
"""How much longer than any push its lease lasts, so that a living sender is never overtaken."""

SECRET_BYTES = 32
"""Of a subscription's secret: as long as the digest that it makes."""

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
        """Add the clock, and what it keeps the time of: prune, and reconcile."""
        holder = holder_name()
        fresh_seconds = self.settings.reread_after_seconds
        clock = ClockWork(
            database=self.database, call=self._call, push=self._push, holder=holder, fresh_seconds=fresh_seconds
        )
        self.parts.append(clock)
        self.parts.append(pruning(self.settings, self.database, holder=holder, metrics=self.metrics))
        if self.settings.reconcile_every_seconds:
            self.parts.append(
                reconciling(self.settings, self.database, call=self._call, holder=holder, notify=self._notify)
            )

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


def subscribe_of(settings: Settings, database: Database) -> Subscribe:
    """Return what an operator does with subscriptions."""
    return Subscribe(
        database=database,
        vault=Vault(settings.encryption_keys),
        target=Guard(settings.push_allowed_networks),
        new_secret=lambda: "whsec_" + base64.b64encode(os.urandom(SECRET_BYTES)).decode(),
        new_id=new_token,
    )


def hosts_of(settings: Settings) -> Hosts:
    """Return what runs handlers: interpreters like this one, but for the working directory, which they look in too."""
    # Safely (-P): a file of the user's that is called as one of our packages is not taken for it.
    command = (sys.executable, "-P", "-u", "-m", "meldwatch.hosting")
    return Hosts(command=command, modules=settings.handlers, log_format=settings.log_format)


def reverify_of(settings: Settings, database: Database, *, call: Callable[[Collection[str]], None]) -> Reverify:
    """Return what tries refused webhooks again; ``require`` has seen to URLs and secrets."""
    vault = Vault(settings.encryption_keys)
    return Reverify(
        database=database,
        vault=vault,
        verifier=verifier_of(settings),
        table=table_for(database, vault),
        call=call,
    )


def holder_name() -> str:
    """Return a name that no other process has, and that tells an operator which one this is."""
    return f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex[:8]}"


def new_token() -> str:
    """Return a token for a claim, never the same twice."""
    return uuid.uuid4().hex


def verifier_of(settings: Settings) -> Verifier:
    """Return the verifier that the settings describe; ``require`` has seen to URLs and secrets."""
    return Verifier(
        urls=settings.webhook_urls,
        secrets=[secret.get_secret_value() for secret in settings.webhook_secrets],
        window=Window(
            max_age=timedelta(seconds=settings.webhook_max_age_seconds),
            max_skew=timedelta(seconds=settings.webhook_max_skew_seconds),
        ),
    )
