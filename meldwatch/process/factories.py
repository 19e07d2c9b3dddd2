"""Wiring: the collaborators that processes and commands make alike, each from the settings."""

import base64
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Collection
from datetime import timedelta

from runtime.clock import utcnow
from runtime.database import Database
from runtime.handlers.process_pool import HandlerPool
from runtime.net.meld_client import MeldClient
from runtime.net.ssrf_guard import SsrfGuard
from runtime.security.encryption import Encryption
from runtime.settings import Settings
from service.ingest.signature import SignatureVerifier, TimestampWindow
from service.ingest.webhook_insert import table_for
from service.reconcile.run import Reconcile
from service.rejected.reverify import Reverify
from service.replay.manage import ReplayManager
from service.subscriptions.manage import SubscriptionManager
from workers.refetch.bulk_import import BulkImport
from workers.refetch.preview import RefetchPreview

SECRET_BYTES = 32
"""Of a subscription's secret: as long as the digest that it makes."""


def reconcile_of(
    settings: Settings,
    database: Database,
    *,
    call: Callable[[Collection[str]], None],
    holder: str,
    wait: Callable[[float], bool],
    notify: Callable[[], None] = lambda: None,
) -> Reconcile:
    """Return what runs a reconcile; ``require`` has seen to the credentials."""
    return Reconcile(
        database=database,
        lister=MeldClient.from_settings(settings, connections=1),
        adopt=BulkImport(database=database),
        call=call,
        clock=utcnow,
        holder=holder,
        lease_seconds=settings.lease_seconds,
        wait=wait,
        notify=notify,
    )


def subscribe_of(settings: Settings, database: Database) -> SubscriptionManager:
    """Return what an operator does with subscriptions."""
    return SubscriptionManager(
        database=database,
        vault=Encryption(settings.encryption_keys),
        target=SsrfGuard(settings.push_allowed_networks),
        new_secret=lambda: "whsec_" + base64.b64encode(os.urandom(SECRET_BYTES)).decode(),
        new_id=new_token,
    )


def hosts_of(settings: Settings) -> HandlerPool:
    """Return what runs handlers: interpreters like this one, but for the working directory, which they look in too."""
    # Safely (-P): a file of the user's that is called as one of our packages is not taken for it.
    command = (sys.executable, "-P", "-u", "-m", "meldwatch.process.handler_main")
    return HandlerPool(command=command, modules=settings.handlers, log_format=settings.log_format)


def reverify_of(settings: Settings, database: Database, *, call: Callable[[Collection[str]], None]) -> Reverify:
    """Return what tries refused webhooks again; ``require`` has seen to URLs and secrets."""
    vault = Encryption(settings.encryption_keys)
    return Reverify(
        database=database,
        vault=vault,
        verifier=verifier_of(settings),
        table=table_for(database, vault),
        call=call,
    )


def replays_of(database: Database) -> ReplayManager:
    """Return what an operator does with replays; their ids grow with time."""
    return ReplayManager(database=database, new_id=lambda: f"{time.time_ns() // 1_000_000:012x}{uuid.uuid4().hex[:12]}")


def foresee_of(settings: Settings, database: Database, *, rate: float, wait: Callable[[float], bool]) -> RefetchPreview:
    """Return what looks ahead at reads; ``require`` has seen to the credentials."""
    meld = MeldClient.from_settings(settings, connections=1)
    return RefetchPreview(database=database, reader=meld, clock=utcnow, rate=rate, wait=wait)


def holder_name() -> str:
    """Return a name that no other process has, and that tells an operator which one this is."""
    return f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex[:8]}"


def new_token() -> str:
    """Return a token for a claim, never the same twice."""
    return uuid.uuid4().hex


def verifier_of(settings: Settings) -> SignatureVerifier:
    """Return the verifier that the settings describe; ``require`` has seen to URLs and secrets."""
    return SignatureVerifier(
        urls=settings.webhook_urls,
        secrets=[secret.get_secret_value() for secret in settings.webhook_secrets],
        window=TimestampWindow(
            max_age=timedelta(seconds=settings.webhook_max_age_seconds),
            max_skew=timedelta(seconds=settings.webhook_max_skew_seconds),
        ),
    )
