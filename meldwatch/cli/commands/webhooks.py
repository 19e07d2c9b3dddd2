"""``meldwatch webhooks``: list and show the stored webhooks; list rejected webhooks and verify them again."""

import json
import sys

import click

from meldwatch.cli import output
from meldwatch.cli.context import make_worker_notifier, open_settings_and_database
from meldwatch.cli.exit_codes import ExitCode
from meldwatch.cli.operator_name import get_operator_name
from meldwatch.cli.options import json_object_option, json_option, print_next_page_hint, query_options
from meldwatch.process.generated_secrets import load_stored_encryption_key
from runtime.errors import UsageError
from schemas.api_queries import RejectionQuery, WebhookQuery
from service.rejected.reverify import ReverifyResult

COLUMNS = ("event_id", "type", "connection_id", "state", "received_at", "deliveries", "error")
REJECTION_COLUMNS = (
    "id",
    "reason",
    "state",
    "received_at",
    "times",
    "off_seconds",
    "size",
    "whole",
    "event_id",
    "type",
)


@click.group()
def webhooks() -> None:
    """Show the stored webhooks; verify rejected ones again."""


@webhooks.command("list")
@query_options(WebhookQuery)
@json_option
def list_webhooks(*, query: WebhookQuery, as_json: bool) -> None:
    """List webhooks, in the order in which they were stored."""
    from service.resources.webhooks import WEBHOOKS

    with open_settings_and_database() as (_settings, database):
        page = WEBHOOKS.get_page(database, query)
    output.print_items(page.webhooks, COLUMNS, as_json=as_json)
    print_next_page_hint(page.next)


@webhooks.command("show")
@click.argument("event_id", metavar="ID")
@click.option("--body", "is_body", is_flag=True, help="Print only the raw body, byte for byte as it was signed.")
@json_option
def show_webhook(*, event_id: str, is_body: bool, as_json: bool) -> None:
    """Show one webhook, by Meld's event id.

    With --body, the command needs the key that the body is encrypted with. It finds the key that `up` has generated.
    """
    from runtime.security.encryption import Encryption
    from service.resources.webhooks import get_body, get_webhook

    if is_body and as_json:
        raise UsageError("Give --body or --json, not both: --body prints the body as it was received.")
    with open_settings_and_database() as (settings, database):
        if is_body:
            encryption = Encryption(load_stored_encryption_key(settings).encryption_keys)
            click.echo(get_body(database, event_id, encryption), nl=False)
        else:
            output.print_item(get_webhook(database, event_id), as_json=as_json)


@webhooks.command("rejected")
@query_options(RejectionQuery)
@json_option
def list_rejections(*, query: RejectionQuery, as_json: bool) -> None:
    """List rejected webhooks that were kept, in the order of their first arrival.

    Their signature was not valid: anybody may have sent them.
    """
    from service.resources.rejections import REJECTIONS

    with open_settings_and_database() as (_settings, database):
        page = REJECTIONS.get_page(database, query)
    output.print_items(page.rejections, REJECTION_COLUMNS, as_json=as_json)
    print_next_page_hint(page.next)


@webhooks.command("reverify")
@click.option("--dry-run", "is_dry", is_flag=True, help="Print what would be admitted, and write nothing.")
@json_object_option
def reverify(*, is_dry: bool, as_json: bool) -> None:
    """Verify rejected webhooks with the current secrets and URLs, and admit those that pass, each once.

    Admitted webhooks are stored as if they had just arrived, and their connections are read. The command may run
    beside the service, and again at any time. Exit code 1 means that a webhook that looks like Meld's still fails.
    """
    from meldwatch.process.factories import make_reverifier

    with open_settings_and_database("webhook_urls", "webhook_secrets") as (settings, database):
        keyed_settings = load_stored_encryption_key(settings)
        reverifier = make_reverifier(keyed_settings, database, call=make_worker_notifier(settings, database))
        with output.show_progress("rejected webhooks verified") as progress:
            result = reverifier.run(who=get_operator_name(), is_dry=is_dry, progress=progress)
    _print_result(result, as_json=as_json)
    sys.exit(ExitCode.OK if result.is_clean else ExitCode.PROBLEM_FOUND)


def _print_result(result: ReverifyResult, *, as_json: bool) -> None:
    counts = {name: getattr(result, name) for name in ("admitted", "repeats", "truncated", "sealed", "unstorable")}
    refused = dict(sorted(result.refused.items()))
    if as_json:
        click.echo(json.dumps({**counts, "refused": refused}))
        return
    rows = {**counts, **{f"still rejected: {reason}": count for reason, count in refused.items()}}
    output.print_table(("result", "count"), ((name, str(count)) for name, count in rows.items()))
