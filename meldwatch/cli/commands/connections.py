"""``meldwatch connections``: list and show the mirrored connections, request reads, list failed reads."""

import click

from meldwatch.cli import output
from meldwatch.cli.context import make_worker_notifier, open_settings_and_database
from meldwatch.cli.operator_name import get_operator_name
from meldwatch.cli.options import json_option, make_query, print_next_page_hint, query_options
from runtime.database import Database
from schemas.api_queries import AsOfQuery, ConnectionQuery, FailureQuery, TimelineQuery
from schemas.api_resources import Connection
from service.resources.connections import CONNECTIONS, get_connection, request_refresh
from service.resources.failures import FAILURES

COLUMNS = ("id", "status", "status_reason", "primary_duplicate_id", "institution_name", "customer_id")
FAILURE_COLUMNS = ("connection_id", "trigger", "failed_at", "retry_at", "error")


@click.group()
def connections() -> None:
    """Show the mirrored connections; request reads of them."""


@connections.command("list")
@query_options(ConnectionQuery)
@json_option
def list_connections(*, query: ConnectionQuery, as_json: bool) -> None:
    """List connections, in the order of their ids."""
    with open_settings_and_database() as (_settings, database):
        page = CONNECTIONS.get_page(database, query)
    output.print_items(page.connections, COLUMNS, as_json=as_json)
    print_next_page_hint(page.next)


@connections.command("show")
@click.argument("connection_id", metavar="ID")
@click.option("--at", metavar="TIME", help="The state as of this time (ISO 8601): after the last read before it.")
@click.option("--timeline", "is_timeline", is_flag=True, help="Only the timeline, without the connection.")
@query_options(TimelineQuery)
@json_option
def show_connection(
    *, connection_id: str, at: str | None, is_timeline: bool, query: TimelineQuery, as_json: bool
) -> None:
    """Show one connection and its timeline: webhooks, reads, events, deliveries, operators' actions.

    With --json, only the connection is printed, or with --timeline only the timeline.
    """
    moment = make_query(AsOfQuery, {"at": at}) if at is not None else None
    with open_settings_and_database() as (_settings, database):
        if moment is not None:
            output.print_item(_get_connection_as_of(database, connection_id, moment), as_json=as_json)
            return
        if not is_timeline and query.after is None:
            output.print_item(get_connection(database, connection_id), as_json=as_json)
        if is_timeline or not as_json:
            _print_timeline(database, connection_id, query, as_json=as_json)


@connections.command("refresh")
@click.argument("connection_id", metavar="ID")
def refresh_connection(*, connection_id: str) -> None:
    """Request a read of a connection from Meld. This never calls Meld's chargeable refresh."""
    with open_settings_and_database() as (settings, database):
        notify_workers = make_worker_notifier(settings, database)
        request_refresh(database, connection_id, notify_workers=notify_workers, who=get_operator_name())
    click.echo(f"{connection_id} will be read again")


@connections.command("failed")
@query_options(FailureQuery)
@json_option
def list_failures(*, query: FailureQuery, as_json: bool) -> None:
    """List connections whose reads failed too often, with the last error. They may be missing from the mirror."""
    with open_settings_and_database() as (_settings, database):
        page = FAILURES.get_page(database, query)
    output.print_items(page.failures, FAILURE_COLUMNS, as_json=as_json)
    print_next_page_hint(page.next)


def _get_connection_as_of(database: Database, connection_id: str, moment: AsOfQuery) -> Connection:
    from workers.history.as_of import mirror_as_of

    with database.snapshot() as session:
        return Connection.from_row(mirror_as_of(session, connection_id, moment.at))


def _print_timeline(database: Database, connection_id: str, query: TimelineQuery, *, as_json: bool) -> None:
    from meldwatch.cli.item_lines import format_timeline_item
    from service.resources.timeline import get_timeline
    from workers.history.projection import project_mirrors

    page = get_timeline(database, connection_id, query, project_mirrors)
    for item in page.timeline:
        click.echo(item.model_dump_json() if as_json else format_timeline_item(item))
    print_next_page_hint(page.next)
