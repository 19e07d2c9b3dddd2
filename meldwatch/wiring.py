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
from runtime.guard import Guard
from runtime.hosts import Hosts
from runtime.meld import Meld
from runtime.settings import Settings
from runtime.vault import Vault
from service.inbox import table_for
from service.reconcile import Reconcile
from service.replay import Replays
from service.reverify import Reverify
from service.subscribe import Subscribe
from service.verify import Verifier, Window
from workers.adopt import Adopt
from workers.foresee import Foresee

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
        lister=Meld.from_settings(settings, connections=1),
        adopt=Adopt(database=database),
        call=call,
        clock=utcnow,
        holder=holder,
        lease_seconds=settings.lease_seconds,
        wait=wait,
        notify=notify,
    )


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


def replays_of(database: Database) -> Replays:
    """Return what an operator does with replays; their ids grow with time."""
    return Replays(database=database, new_id=lambda: f"{time.time_ns() // 1_000_000:012x}{uuid.uuid4().hex[:12]}")


def foresee_of(settings: Settings, database: Database, *, rate: float, wait: Callable[[float], bool]) -> Foresee:
    """Return what looks ahead at reads; ``require`` has seen to the credentials."""
    meld = Meld.from_settings(settings, connections=1)
    return Foresee(database=database, reader=meld, clock=utcnow, rate=rate, wait=wait)


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
