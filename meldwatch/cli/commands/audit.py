"""``meldwatch audit``: the audit log of operators' actions."""

import click

from meldwatch.cli import output
from meldwatch.cli.context import open_settings_and_database
from meldwatch.cli.options import json_option, print_next_page_hint, query_options
from schemas.api_queries import AuditQuery
from service.resources.audit_log import AUDIT_ENTRIES

COLUMNS = ("at", "who", "act", "subject", "connection_id", "details")


@click.group()
def audit() -> None:
    """Show what operators did, over the API and by commands."""


@audit.command("list")
@query_options(AuditQuery)
@json_option
def list_actions(*, query: AuditQuery, as_json: bool) -> None:
    """List operators' actions, the latest first."""
    with open_settings_and_database() as (_settings, database):
        page = AUDIT_ENTRIES.get_page(database, query)
    output.print_items(page.acts, COLUMNS, as_json=as_json)
    print_next_page_hint(page.next)
