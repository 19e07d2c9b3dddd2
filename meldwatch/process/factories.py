"""Factories: make the objects that both processes and commands need, from the settings (dependency injection)."""

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
from service.ingest.webhook_insert import make_webhook_table
from service.reconcile.run import Reconciler
from service.rejected.reverify import RejectionReverifier
from service.replay.manage import ReplayManager
from service.subscriptions.manage import SubscriptionManager
from workers.refetch.bulk_import import BulkImport
from workers.refetch.preview import RefetchPreview

SECRET_BYTES = 32
"""Length of a subscription's secret: as long as the HMAC that it makes."""


def make_reconcile(
    settings: Settings,
    database: Database,
    *,
    call: Callable[[Collection[str]], None],
    holder: str,
    wait: Callable[[float], bool],
    notify: Callable[[], None] = lambda: None,
) -> Reconciler:
    """Make the runner of a reconcile. The caller has checked that the settings have credentials for Meld."""
    return Reconciler(
        database=database,
        lister=MeldClient.from_settings(settings, connections=1),
        import_connections=BulkImport(database=database),
        notify_workers=call,
        clock=utcnow,
        holder=holder,
        lease_seconds=settings.lease_seconds,
        wait=wait,
        notify_feed=notify,
    )


def make_subscription_manager(settings: Settings, database: Database) -> SubscriptionManager:
    """Make the manager of subscriptions."""
    return SubscriptionManager(
        database=database,
        encryption=Encryption(settings.encryption_keys),
        url_guard=SsrfGuard(settings.push_allowed_networks),
        new_secret=lambda: "whsec_" + base64.b64encode(os.urandom(SECRET_BYTES)).decode(),
        new_id=make_token,
    )


def make_handler_pool(settings: Settings) -> HandlerPool:
    """Make the pool of handler processes. They run this interpreter, and also import from the working directory."""
    # -P: a file of the user that is named like one of our packages must not replace it.
    command = (sys.executable, "-P", "-u", "-m", "meldwatch.process.handler_main")
    return HandlerPool(command=command, modules=settings.handlers, log_format=settings.log_format)


def make_reverifier(
    settings: Settings, database: Database, *, call: Callable[[Collection[str]], None]
) -> RejectionReverifier:
    """Make the verifier of rejected webhooks. The caller has checked that the settings have URLs and secrets."""
    encryption = Encryption(settings.encryption_keys)
    return RejectionReverifier(
        database=database,
        encryption=encryption,
        verifier=make_signature_verifier(settings),
        table=make_webhook_table(database, encryption),
        notify_workers=call,
    )


def make_replay_manager(database: Database) -> ReplayManager:
    """Make the manager of replays. Its ids are ordered by time."""
    return ReplayManager(database=database, new_id=lambda: f"{time.time_ns() // 1_000_000:012x}{uuid.uuid4().hex[:12]}")


def make_refetch_preview(
    settings: Settings, database: Database, *, rate: float, wait: Callable[[float], bool]
) -> RefetchPreview:
    """Make the preview of reads (dry run). The caller has checked that the settings have credentials for Meld."""
    meld = MeldClient.from_settings(settings, connections=1)
    return RefetchPreview(database=database, reader=meld, clock=utcnow, rate=rate, wait=wait)


def make_lease_holder_name() -> str:
    """Return a unique name of this process for its leases, by which an operator finds the process."""
    return f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex[:8]}"


def make_token() -> str:
    """Return a unique token: a fencing token of a lease, or an id."""
    return uuid.uuid4().hex


def make_signature_verifier(settings: Settings) -> SignatureVerifier:
    """Make the signature verifier. The caller has checked that the settings have URLs and secrets."""
    return SignatureVerifier(
        urls=settings.webhook_urls,
        secrets=[secret.get_secret_value() for secret in settings.webhook_secrets],
        window=TimestampWindow(
            max_age=timedelta(seconds=settings.webhook_max_age_seconds),
            max_skew=timedelta(seconds=settings.webhook_max_skew_seconds),
        ),
    )
