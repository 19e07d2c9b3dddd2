"""The commands about refused webhooks, beside those about the stored ones: rejected, reverify."""

import sys
from typing import Any, get_args

import click

from meldwatch.cli import output
from meldwatch.cli.context import caller_beside, open_database, operator_name, settings_for
from meldwatch.cli.options import after_option, json_option, limit_option, query_of, stored, tell_more
from meldwatch.process.factories import reverify_of
from meldwatch.process.generated_secrets import with_kept_encryption_key
from schemas.api_queries import RejectionQuery
from schemas.api_resources import RejectionState
from service.http.threadpool import ThreadPool
from service.resources.rejections import Rejections

COLUMNS = ("id", "reason", "state", "received_at", "times", "off_seconds", "size", "whole", "event_id", "type")


@click.command("rejected")
@click.option("--reason", help="Such as wrong, too_old, missing.")
@click.option("--state", type=click.Choice(get_args(RejectionState)))
@click.option("--since", help="Last received then or later, ISO 8601.")
@click.option("--until", help="Last received before, ISO 8601.")
@after_option
@limit_option
@json_option
def list_rejections(*, as_json: bool, **filters: Any) -> None:  # noqa: ANN401 - handed to the query, which checks
    """List refused webhooks, as far as they were kept, in the order in which they first came.

    Anybody may have sent them, whatever they claim.
    """
    query = query_of(RejectionQuery, filters)
    with stored() as (_settings, database):
        page = Rejections(database=database, threads=ThreadPool()).find(query)
    output.rows(page.rejections, COLUMNS, as_json=as_json)
    tell_more(page.next)


@click.command("reverify")
@click.option("--dry-run", "is_dry", is_flag=True, help="Say what would be admitted, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def reverify(*, is_dry: bool, as_json: bool) -> None:
    """Try refused webhooks against the present secrets and URLs, and admit those that now pass, each once.

    They are stored as if they had just arrived, and their connections are read. May run beside the service, and again
    at any time. Exits with 1 where one that looks like Meld's still does not pass.
    """
    settings = with_kept_encryption_key(settings_for("webhook_urls", "webhook_secrets"))
    database = open_database(settings)
    try:
        trial = reverify_of(settings, database, call=caller_beside(settings, database))
        with output.progress("refused webhooks tried") as progress:
            came_to = trial.run(who=operator_name(), is_dry=is_dry, progress=progress)
    finally:
        database.close()
    output.reverified(came_to, as_json=as_json)
    sys.exit(0 if came_to.is_clean else 1)


COMMANDS = (list_rejections, reverify)
