"""``meldwatch trigger``: send one signed webhook, as Meld would."""

import json
import sys
import uuid
from datetime import datetime

import click
import httpx2

from meldwatch.cli.context import get_service_url, load_command_settings
from meldwatch.cli.exit_codes import ExitCode
from runtime.clock import utcnow
from runtime.errors import OutOfReachError, UsageError
from simulator.webhooks import signature

TIMEOUT_SECONDS = 15.0


@click.command()
@click.argument("event_type")
@click.option("--connection", "connection_id", required=True, help="The connection that the webhook names.")
@click.option("--status", help="The newStatus of a BANK_LINKING_CONNECTION_STATUS_CHANGE.")
@click.option("--event-id", help="Meld's eventId; by default, a new one. Use one twice to send a duplicate.")
@click.option("--to", help="The URL to send it to; by default, the service on this machine.")
def trigger(*, event_type: str, connection_id: str, status: str | None, event_id: str | None, to: str | None) -> None:
    """Send one signed webhook, as Meld would.

    It is signed for the first configured URL with the first secret.
    """
    settings = load_command_settings("webhook_urls", "webhook_secrets")
    now = utcnow()
    body = _make_body(event_type, connection_id, status=status, event_id=event_id or uuid.uuid4().hex, now=now)
    secret, signed_url = settings.webhook_secrets[0].get_secret_value(), settings.webhook_urls[0]
    headers = signature.signature_headers(
        secret=secret, url=signed_url, signed_at=signature.format_timestamp(now), body=body
    )
    url = to or f"{get_service_url(settings)}/webhooks/meld"
    try:
        response = httpx2.post(url, content=body, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False)
    except httpx2.InvalidURL:
        raise UsageError("--to is not a URL.") from None
    except httpx2.HTTPError as error:
        raise OutOfReachError(f"{url} does not answer ({type(error).__name__}). Is the service running?") from None
    click.echo(f"{url} answered {response.status_code}")
    sys.exit(ExitCode.OK if response.status_code == httpx2.codes.OK else ExitCode.PROBLEM_FOUND)


def _make_body(event_type: str, connection_id: str, *, status: str | None, event_id: str, now: datetime) -> bytes:
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
