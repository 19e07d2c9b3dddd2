"""What a clock has done once in a while: prune, and reconcile."""

import threading
from collections.abc import Callable, Collection
from typing import Any

from meldwatch.chore import Chore
from runtime.clock import utcnow
from runtime.database import Database
from runtime.meld import Meld
from runtime.metrics import Metrics
from runtime.settings import Settings
from service.reconcile import Reconcile
from workers.adopt import Adopt
from workers.prune import Prune

PRUNE_SECONDS = 86400.0
"""How often rows are removed that need not be kept any more."""


def pruning(settings: Settings, database: Database, *, holder: str, metrics: Metrics) -> Chore:
    """Return what removes rows once a day."""
    is_stopping = threading.Event()
    prune = Prune(database=database, settings=settings, holder=holder, wait=is_stopping.wait, metrics=metrics)
    return Chore(
        "pruned",
        is_due=prune.is_due,
        run=lambda: prune.run(who="clock"),
        every_seconds=PRUNE_SECONDS,
        is_stopping=is_stopping,
    )


def reconciling(
    settings: Settings,
    database: Database,
    *,
    call: Callable[[Collection[str]], None],
    holder: str,
    notify: Callable[[], None],
) -> Chore:
    """Return what reconciles as often as the settings say."""
    is_stopping = threading.Event()
    reconcile = reconcile_of(settings, database, call=call, holder=holder, wait=is_stopping.wait, notify=notify)

    def run() -> dict[str, Any]:
        report = reconcile.run()
        return {"listed": report.listed, **{str(kind): number for kind, number in report.drift.items()}}

    return Chore(
        "reconciled",
        is_due=reconcile.is_due,
        run=run,
        every_seconds=settings.reconcile_every_seconds,
        is_stopping=is_stopping,
    )


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
