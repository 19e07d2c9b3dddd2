"""The command that looks at what operators did."""

from typing import Any

import click

from meldwatch.cli import output
from meldwatch.cli.options import after_option, json_option, limit_option, query_of, stored, tell_more
from schemas.api_queries import AuditQuery
from service.http.threadpool import ThreadPool
from service.resources.audit_log import AuditLog

COLUMNS = ("at", "who", "act", "subject", "connection_id", "details")


@click.group()
def audit() -> None:
    """What operators did, over the API and by commands."""


@audit.command("list")
@click.option("--act", help="Such as subscription.rotated.")
@click.option("--who", help="The name of a token, or cli: and that of a user.")
@click.option("--connection", "connection_id")
@click.option("--since", help="Done then or later, ISO 8601.")
@click.option("--until", help="Done before, ISO 8601.")
@after_option
@limit_option
@json_option
def list_acts(*, as_json: bool, **filters: Any) -> None:  # noqa: ANN401 - handed to the query, which checks
    """List acts, the latest first."""
    query = query_of(AuditQuery, filters)
    with stored() as (_settings, database):
        page = AuditLog(database=database, threads=ThreadPool()).find(query)
    output.rows(page.acts, COLUMNS, as_json=as_json)
    tell_more(page.next)


COMMANDS = (audit,)
