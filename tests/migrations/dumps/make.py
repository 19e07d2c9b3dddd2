"""Create the database dumps of a release: run it until every table has rows, kill it, and dump its database.

    cd CHECKOUT-OF-THE-RELEASE && PYTHONPATH=. .venv/bin/python .../tests/migrations/dumps/make.py VERSION FOLDER

Everything but this file is imported from that checkout: its program, its simulated Meld, its test helpers.
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
from tests.support.polling import eventually
from tests.support.processes import servers
from tests.support.scripted_consumer import HttpConsumer
from workers.retention.observations import remove_old_observations

KEY = "bWVsZHdhdGNoIDAuMS4wJ3Mga2V5LCBmb3IgdGVzdHM="
"""The key that encrypts the subscriptions' secrets in the dumps; ``tests/end_to_end/test_upgrade.py`` has it too."""

SETTINGS = {"MELDWATCH_PUSH_ALLOWED_NETWORKS": "127.0.0.0/8", "MELDWATCH_ENCRYPTION_KEYS": KEY}
SECONDS = 600.0
"""The timeout of each step: the twelve attempts until a read is dead take two to four minutes."""


def main(version: str, folder: Path) -> None:
    """Create both dumps."""
    run = servers.Run.begin()
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory)
            names = run_release(servers.sqlite_database(run, path), path)
            dump = "\n".join(sqlite3.connect(path / "meldwatch.db").iterdump())
            write(folder / f"{version}.sqlite.sql", dump, names)
        with tempfile.TemporaryDirectory() as directory, servers.postgres_database(run, "dump") as url:
            names = run_release(url, Path(directory))
            binaries, _user = servers._postgres_binaries(run)
            options = ("--rows-per-insert=1", "--column-inserts", "--no-owner", "--no-privileges")
            made = subprocess.run([binaries / "pg_dump", *options, url], check=True, capture_output=True, text=True)
            # Omit comments, which name versions, and lines with a backslash, which are for psql only.
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


def run_release(url: str, folder: Path) -> dict[str, str]:
    """Run the release on a database; return replacements for the URLs of this machine."""
    with deployed(folder, url, "memory://", **SETTINGS) as deployment, HttpConsumer() as crm, HttpConsumer() as billing:
        deployment.environment["PYTHONPATH"] = str(Path.cwd())
        billing.statuses = [500] * 1000
        up = deployment.start("up")
        deployment.wait_until_ready()
        subscribe(deployment, crm, billing)
        ids = produce_history(deployment)
        reconciled = deployment.run("reconcile")
        assert reconciled.returncode in {0, 1}, reconciled.stderr
        let_read_die(deployment, url, ids["broken"])
        let_delivery_die(url)
        with opened(url) as session:
            remove_old_observations(session.info["database"], session, ids["a"], utcnow())
        leave_read_pending(deployment, url, ids["b"])
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
    """Add one subscription that works, one that fails, and one that is paused."""
    for name, consumer in (("crm", crm), ("billing", billing), ("archive", crm)):
        added = deployment.run("subscriptions", "add", name, consumer.url)
        assert added.returncode == 0, added.stderr
    deployment.run("subscriptions", "pause", "archive")
    deployment.run("subscriptions", "rotate", "crm")


def produce_history(deployment: Deployment) -> dict[str, str]:
    """Create, join, break, repair, move and delete connections; return the ids of some of them."""
    world, send = deployment.meld.world, deployment.meld.send_webhooks
    customer = NewConnection(external_customer_id="customer")
    ids = {name: world.start(customer).id for name in ("a", "b", "c", "broken", "deleted")}
    for id_ in ids.values():
        send(world.complete(id_))
    eventually(lambda: len(deployment.mirror()) == len(ids) and deployment.has_no_pending_webhooks(), SECONDS)
    for act in (world.break_connection, world.heal, world.break_connection, world.repair):
        send(act(ids["a"]))
        eventually(lambda: deployment.mirror_matches_meld() and deployment.has_no_pending_webhooks(), SECONDS)
    send(world.join(ids["b"], ids["c"]))
    eventually(lambda: deployment.mirror_matches_meld() and deployment.has_no_pending_webhooks(), SECONDS)
    send(world.aggregate(ids["c"]))
    send(world.delete(ids["deleted"]))
    eventually(lambda: deployment.mirror_matches_meld() and deployment.has_no_pending_webhooks(), SECONDS)
    post(deployment, b'{"eventType": "SOMETHING_ELSE", "eventId": "names-no-connection"}')
    return ids


def post(deployment: Deployment, body: bytes) -> None:
    """Send a webhook of a kind that the simulated Meld does not send."""
    url = f"{deployment.url}/webhooks/meld"
    headers = signature.signature_headers(
        secret=SECRET, url=url, signed_at=signature.format_timestamp(utcnow()), body=body
    )
    httpx2.post(url, content=body, headers=headers).raise_for_status()


def let_read_die(deployment: Deployment, url: str, connection_id: str) -> None:
    """Let the reads of a connection fail until they are dead."""
    deployment.script_reads(connection_id, *[{"status": 500}] * 100)
    deployment.send_webhook(connection_id)
    failed = select(WebhookRow).where(col(WebhookRow.failed_at).is_not(None))
    eventually(lambda: found(url, failed), SECONDS, message="a failed webhook")


def let_delivery_die(url: str) -> None:
    """Let a delivery die, as if it had failed for three days."""
    with opened(url) as session:
        owner = session.exec(select(SubscriptionRow.id).where(SubscriptionRow.name == "billing")).one()
        long_ago = utcnow() - timedelta(days=4)
        tried = update(DeliveryRow).where(col(DeliveryRow.attempts) > 0, col(DeliveryRow.subscription_id) == owner)
        session.exec(tried.values(tried_at=long_ago))
        session.exec(
            update(DeliveryQueueRow).where(col(DeliveryQueueRow.subscription_id) == owner).values(due_at=long_ago)
        )
    eventually(
        lambda: found(url, select(DeliveryRow).where(col(DeliveryRow.dead_at).is_not(None))),
        SECONDS,
        message="a dead delivery",
    )


def leave_read_pending(deployment: Deployment, url: str, connection_id: str) -> None:
    """Leave a read under way that never gets a response."""
    deployment.script_reads(connection_id, {"hang": True})
    deployment.send_webhook(connection_id)
    leased = select(ReadRequestRow).where(
        ReadRequestRow.connection_id == connection_id, col(ReadRequestRow.lease_token).is_not(None)
    )
    eventually(lambda: found(url, leased), SECONDS, message="a lease")


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """Open a transaction that writes."""
    database = Database(url)
    with database.write() as session:
        session.info["database"] = database
        yield session
    database.close()


def found(url: str, statement: Any) -> bool:
    """Return whether the statement finds a row."""
    with opened(url) as session:
        return session.exec(statement.limit(1)).first() is not None


def counts(url: str) -> dict[str, int]:
    """Return the number of rows of each table."""
    with opened(url) as session:
        names = [table.name for table in SQLModel.metadata.sorted_tables]
        return {name: session.connection().execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}


if __name__ == "__main__":
    os.environ.pop("MELDWATCH_DATABASE_URL", None)
    main(sys.argv[1], Path(sys.argv[2]).resolve())
