"""Make the dumps of a release: run it for real until every table has rows, kill it, and write down what it has stored.

    cd CHECKOUT-OF-THE-RELEASE && PYTHONPATH=. .venv/bin/python .../tests/migrations/dumps/make.py VERSION FOLDER

Everything but this file is taken from that checkout: its program, its simulated Meld, its helpers for tests.
"""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import text, update
from sqlmodel import SQLModel, col, select

from runtime.clock import utcnow
from runtime.database import Database
from schemas.tables import DeliveryQueueRow, DeliveryRow, ReadRequestRow, SubscriptionRow, TaskLeaseRow, WebhookRow
from simulator.webhooks import signature
from simulator.world.new_connection import NewConnection
from tests.end_to_end.deployment import SECRET, Deployment, deployed
from tests.support import servers
from tests.support.polling import eventually
from tests.support.scripted_consumer import HttpConsumer
from workers.retention.observations import remove_old_observations

KEY = "bWVsZHdhdGNoIDAuMS4wJ3Mga2V5LCBmb3IgdGVzdHM="
"""What seals the subscriptions' secrets in the dumps; ``tests/end_to_end/test_upgrade.py`` has it, too."""

SETTINGS = {"MELDWATCH_PUSH_ALLOWED_NETWORKS": "127.0.0.0/8", "MELDWATCH_ENCRYPTION_KEYS": KEY}
SECONDS = 600.0
"""How long anything may take: the twelve attempts after which reads are given up take two to four minutes."""


def main(version: str, folder: Path) -> None:
    """Make both dumps."""
    run = servers.Run.begin()
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory)
            names = live(servers.sqlite_database(run, path), path)
            dump = "\n".join(sqlite3.connect(path / "meldwatch.db").iterdump())
            write(folder / f"{version}.sqlite.sql", dump, names)
        with tempfile.TemporaryDirectory() as directory, servers.postgres_database(run, "dump") as url:
            names = live(url, Path(directory))
            binaries, _user = servers._postgres_binaries(run)
            options = ("--rows-per-insert=1", "--column-inserts", "--no-owner", "--no-privileges")
            made = subprocess.run([binaries / "pg_dump", *options, url], check=True, capture_output=True, text=True)
            # Its comments name versions, and what begins with a backslash is for psql alone.
            lines = [line for line in made.stdout.splitlines() if line and not line.startswith(("--", "\\"))]
            write(folder / f"{version}.postgres.sql", "\n".join(lines), names)
    finally:
        run.end()


def write(path: Path, dump: str, names: dict[str, str]) -> None:
    """Write a dump without the names of this machine."""
    for name, other in names.items():
        dump = dump.replace(name, other)
    assert not re.search(rf"127\.0\.0\.1|{re.escape(socket.gethostname())}|/tmp", dump)
    path.write_text(dump + "\n", encoding="utf-8")


def live(url: str, folder: Path) -> dict[str, str]:
    """Run the release on a database; return what its names for things of this machine are to be replaced by."""
    with deployed(folder, url, "memory://", **SETTINGS) as deployment, HttpConsumer() as crm, HttpConsumer() as billing:
        deployment.environment["PYTHONPATH"] = str(Path.cwd())
        billing.statuses = [500] * 1000
        up = deployment.start("up")
        deployment.wait_until_ready()
        subscribe(deployment, crm, billing)
        ids = happen(deployment)
        reconciled = deployment.run("reconcile")
        assert reconciled.returncode in {0, 1}, reconciled.stderr
        give_up(deployment, url, ids["broken"])
        bury(url)
        with opened(url) as session:
            remove_old_observations(session.info["database"], session, ids["a"], utcnow())
        leave_pending(deployment, url, ids["b"])
        up.send_signal(signal.SIGKILL)
        up.wait()
        with opened(url) as session:
            session.exec(update(TaskLeaseRow).values(holder="machine 1 0a1b2c3d"))
        empty = [name for name, count in counts(url).items() if not count]
        assert empty == [], empty
        return {
            f"http://127.0.0.1:{deployment.port}": "https://receiver.example",
            crm.url: "https://crm.example/events",
            billing.url: "https://billing.example/events",
        }


def subscribe(deployment: Deployment, crm: HttpConsumer, billing: HttpConsumer) -> None:
    """Have one consumer that takes everything, one that fails, and one that rests."""
    for name, consumer in (("crm", crm), ("billing", billing), ("archive", crm)):
        added = deployment.run("subscriptions", "add", name, consumer.url)
        assert added.returncode == 0, added.stderr
    deployment.run("subscriptions", "pause", "archive")
    deployment.run("subscriptions", "rotate", "crm")


def happen(deployment: Deployment) -> dict[str, str]:
    """Have connections linked, joined, damaged, mended, moved and deleted; return some of them."""
    world, tell = deployment.meld.world, deployment.meld.send_webhooks
    customer = NewConnection(external_customer_id="customer")
    ids = {name: world.start(customer).id for name in ("a", "b", "c", "broken", "deleted")}
    for id_ in ids.values():
        tell(world.complete(id_))
    eventually(lambda: len(deployment.mirror()) == len(ids) and deployment.is_settled(), SECONDS)
    for act in (world.break_connection, world.heal, world.break_connection, world.repair):
        tell(act(ids["a"]))
        eventually(lambda: deployment.is_true() and deployment.is_settled(), SECONDS)
    tell(world.join(ids["b"], ids["c"]))
    eventually(lambda: deployment.is_true() and deployment.is_settled(), SECONDS)
    tell(world.aggregate(ids["c"]))
    tell(world.delete(ids["deleted"]))
    eventually(lambda: deployment.is_true() and deployment.is_settled(), SECONDS)
    post(deployment, b'{"eventType": "SOMETHING_ELSE", "eventId": "names-no-connection"}')
    return ids


def post(deployment: Deployment, body: bytes) -> None:
    """Send a webhook that the simulated Meld does not."""
    url = f"{deployment.url}/webhooks/meld"
    headers = signature.signature_headers(
        secret=SECRET, url=url, signed_at=signature.format_timestamp(utcnow()), body=body
    )
    httpx2.post(url, content=body, headers=headers).raise_for_status()


def give_up(deployment: Deployment, url: str, connection_id: str) -> None:
    """Have a connection's reads fail until they are given up."""
    deployment.script(connection_id, *[{"status": 500}] * 100)
    deployment.hint(connection_id)
    failed = select(WebhookRow).where(col(WebhookRow.failed_at).is_not(None))
    eventually(lambda: found(url, failed), SECONDS, message="the failure")


def bury(url: str) -> None:
    """Have a delivery given up, as if it had been tried for three days."""
    with opened(url) as session:
        owner = session.exec(select(SubscriptionRow.id).where(SubscriptionRow.name == "billing")).one()
        long_ago = utcnow() - timedelta(days=4)
        session.exec(update(DeliveryRow).where(col(DeliveryRow.attempts) > 0, col(DeliveryRow.subscription_id) == owner).values(
            tried_at=long_ago
        ))  # fmt: skip
        session.exec(
            update(DeliveryQueueRow).where(col(DeliveryQueueRow.subscription_id) == owner).values(due_at=long_ago)
        )
    eventually(
        lambda: found(url, select(DeliveryRow).where(col(DeliveryRow.dead_at).is_not(None))),
        SECONDS,
        message="a dead one",
    )


def leave_pending(deployment: Deployment, url: str, connection_id: str) -> None:
    """Have a read under way that will never be answered."""
    deployment.script(connection_id, {"hang": True})
    deployment.hint(connection_id)
    claimed = select(ReadRequestRow).where(
        ReadRequestRow.connection_id == connection_id, col(ReadRequestRow.lease_token).is_not(None)
    )
    eventually(lambda: found(url, claimed), SECONDS, message="the claim")


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """Open a transaction that writes."""
    database = Database(url)
    with database.write() as session:
        session.info["database"] = database
        yield session
    database.close()


def found(url: str, statement: Any) -> bool:
    """Return whether there is such a row."""
    with opened(url) as session:
        return session.exec(statement.limit(1)).first() is not None


def counts(url: str) -> dict[str, int]:
    """Return how many rows each table has."""
    with opened(url) as session:
        names = [table.name for table in SQLModel.metadata.sorted_tables]
        return {name: session.connection().execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}


if __name__ == "__main__":
    os.environ.pop("MELDWATCH_DATABASE_URL", None)
    main(sys.argv[1], Path(sys.argv[2]).resolve())
