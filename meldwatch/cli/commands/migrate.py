"""The commands that act once: migrate, doctor, trigger, reconcile."""

import json
import sys
import threading
import uuid
from datetime import datetime

import click
import httpx2

from meldwatch.cli import doctor_checks as checks
from meldwatch.cli import output
from meldwatch.cli.context import caller_beside, open_database, operator_name, own_url, settings_for
from meldwatch.process.factories import holder_name, reconcile_of
from migrations import run as migrations
from runtime.clock import utcnow
from runtime.database import Database
from runtime.errors import OutOfReachError, UsageError
from simulator.webhooks import signature

TRIGGER_SECONDS = 15.0


@click.command()
def migrate() -> None:
    """Bring the database's tables to this version. Safe to run at any time, and by several at once."""
    settings = settings_for()
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        migrations.upgrade(database.engine)
    finally:
        database.close()
    click.echo(f"the database is at {migrations.head()}")


@click.command()
def doctor() -> None:
    """Check settings, database, migrations, broker, Meld's credentials and the webhook URLs; say what to do."""
    findings = checks.examine(settings_for())
    for finding in findings:
        click.echo(f"{'ok  ' if finding.is_ok else 'FAIL'}  {finding.part:12} {finding.text}")
    if any(finding.part == "settings" and not finding.is_ok for finding in findings):
        sys.exit(2)
    if any(finding.is_out_of_reach for finding in findings):
        sys.exit(3)
    sys.exit(0 if all(finding.is_ok for finding in findings) else 1)


@click.command()
@click.argument("event_type")
@click.option("--connection", "connection_id", required=True, help="The connection that the webhook names.")
@click.option("--status", help="The newStatus of a BANK_LINKING_CONNECTION_STATUS_CHANGE.")
@click.option("--event-id", help="Meld's eventId; by default a new one. Give one twice to send a repeat.")
@click.option("--to", help="Where to send it; by default to the service on this machine.")
def trigger(*, event_type: str, connection_id: str, status: str | None, event_id: str | None, to: str | None) -> None:
    """Send a webhook as Meld would: signed for the first configured URL with the first secret."""
    settings = settings_for("webhook_urls", "webhook_secrets")
    now = utcnow()
    body = _body(event_type, connection_id, status=status, event_id=event_id or uuid.uuid4().hex, now=now)
    secret, signed_url = settings.webhook_secrets[0].get_secret_value(), settings.webhook_urls[0]
    headers = signature.headers(secret=secret, url=signed_url, signed_at=signature.stamp(now), body=body)
    url = to or f"{own_url(settings)}/webhooks/meld"
    try:
        answer = httpx2.post(url, content=body, headers=headers, timeout=TRIGGER_SECONDS, trust_env=False)
    except httpx2.InvalidURL:
        raise UsageError("--to is no URL.") from None
    except httpx2.HTTPError as error:
        raise OutOfReachError(f"{url} does not answer ({type(error).__name__}). Is the service running?") from None
    click.echo(f"{url} answered {answer.status_code}")
    sys.exit(0 if answer.status_code == httpx2.codes.OK else 1)


def _body(event_type: str, connection_id: str, *, status: str | None, event_id: str, now: datetime) -> bytes:
    payload = {"requestId": uuid.uuid4().hex, "connectionId": connection_id}
    if status is not None:
        payload["newStatus"] = status
    envelope = {
        "eventType": event_type,
        "eventId": event_id,
        "timestamp": now.isoformat().replace("+00:00", "Z"),
        "accountId": "meldwatch-trigger",
        "profileId": None,
        "version": "2023-12-19",
        "payload": payload,
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def reconcile(*, as_json: bool) -> None:
    """Compare Meld's whole list with the mirror, mend what differs, and print the drift.

    Exits with 1 where there was any. One that was interrupted is gone on with. Connections that were never seen are
    taken from the list itself, so this is also how a new mirror is filled.
    """
    settings = settings_for("meld_api_key")
    database = open_database(settings)
    try:
        runner = reconcile_of(
            settings,
            database,
            call=caller_beside(settings, database),
            holder=holder_name(),
            # Nobody sets it: Ctrl-C ends the command, and the next run goes on.
            wait=threading.Event().wait,
        )
        with output.progress("connections listed") as progress:
            report = runner.run(lambda sweep: progress(sweep.listed), who=operator_name())
    finally:
        database.close()
    output.drift(report, as_json=as_json)
    sys.exit(0 if report.is_clean else 1)


COMMANDS = (migrate, doctor, trigger, reconcile)
