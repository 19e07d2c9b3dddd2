"""The commands that look at what is stored: connections, webhooks, events. They may run beside the service."""

import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import click

from meldwatch.cli import output
from meldwatch.cli.context import caller_beside, operator_name, own_url, settings_for
from meldwatch.cli.event_tail import EventTail
from meldwatch.cli.options import after_option, json_option, limit_option, query_of, stored, tell_more
from meldwatch.process.generated_secrets import reading_token, with_kept_encryption_key
from runtime import logs
from runtime.database import Database
from runtime.errors import UsageError
from runtime.security.encryption import Encryption
from schemas.api_queries import (
    ConnectionQuery,
    EventQuery,
    FailureQuery,
    Moment,
    StreamQuery,
    TimelineQuery,
    WebhookQuery,
)
from schemas.api_resources import Connection
from schemas.events import Event
from service.feed.notifier import FeedNotifier
from service.http.threadpool import ThreadPool
from service.resources.connections import Connections
from service.resources.events import Events
from service.resources.failures import Failures
from service.resources.timeline import Timelines
from service.resources.webhooks import Webhooks
from workers.history.as_of import recall
from workers.history.projection import views

log = logs.get(__name__)

CONNECTION_COLUMNS = ("id", "status", "status_reason", "primary_duplicate_id", "institution_name", "customer_id")
FAILURE_COLUMNS = ("connection_id", "trigger", "failed_at", "retry_at", "error")
WEBHOOK_COLUMNS = ("event_id", "type", "connection_id", "state", "received_at", "deliveries", "error")


@click.group()
def connections() -> None:
    """The mirror."""


@connections.command("list")
@click.option("--status")
@click.option("--customer-id")
@click.option("--external-customer-id")
@click.option("--institution-id")
@click.option("--after", help="Go on behind this id.")
@limit_option
@json_option
def list_connections(*, as_json: bool, **filters: Any) -> None:  # noqa: ANN401 - handed to the query, which checks
    """List connections, in the order of their ids."""
    query = query_of(ConnectionQuery, filters)
    with stored() as (_settings, database):
        page = _connections(database).find(query)
    output.rows(page.connections, CONNECTION_COLUMNS, as_json=as_json)
    tell_more(page.next)


@connections.command("show")
@click.argument("connection_id", metavar="ID")
@click.option("--at", "at", metavar="TIME", help="As it was then, ISO 8601: after the last read that was done by then.")
@click.option("--timeline", "is_timeline", is_flag=True, help="What happened to it, without what it is.")
@click.option("--after", help="Go on with what happened behind this cursor.")
@limit_option
@json_option
def show_connection(
    *, connection_id: str, at: str | None, is_timeline: bool, after: str | None, limit: int, as_json: bool
) -> None:
    """Show one connection, and what happened to it: webhooks, reads, events, deliveries, operators' acts.

    With --json only the connection, or with --timeline only what happened.
    """
    moment = query_of(Moment, {"at": at}) if at is not None else None
    query = query_of(TimelineQuery, {"limit": limit, "after": after})
    with stored() as (_settings, database):
        if moment is not None:
            with database.snapshot() as session:
                row = recall(session, connection_id, moment.at)
            output.one(Connection.from_row(row), as_json=as_json)
            return
        if not is_timeline and after is None:
            output.one(_connections(database).get(connection_id), as_json=as_json)
        if as_json and not is_timeline:
            return
        page = Timelines(database=database, threads=ThreadPool(), views=views).find(connection_id, query)
    for item in page.timeline:
        click.echo(item.model_dump_json() if as_json else output.item_line(item))
    tell_more(page.next)


@connections.command("refresh")
@click.argument("connection_id", metavar="ID")
def refresh_connection(*, connection_id: str) -> None:
    """Have a connection read from Meld again. This never calls Meld's chargeable refresh."""
    with stored() as (settings, database):
        _connections(database, caller_beside(settings, database)).refresh(connection_id, who=operator_name())
    click.echo(f"{connection_id} will be read again")


@connections.command("failed")
@click.option("--after", help="Go on behind this id.")
@limit_option
@json_option
def list_failures(*, as_json: bool, **filters: Any) -> None:  # noqa: ANN401 - handed to the query, which checks
    """List connections whose reads were given up, and why: of the mirror, or never seen."""
    query = query_of(FailureQuery, filters)
    with stored() as (_settings, database):
        page = Failures(database=database, threads=ThreadPool()).find(query)
    output.rows(page.failures, FAILURE_COLUMNS, as_json=as_json)
    tell_more(page.next)


@click.group()
def webhooks() -> None:
    """The stored webhooks."""


@webhooks.command("list")
@click.option("--state", type=click.Choice(["pending", "processed", "ignored", "failed"]))
@click.option("--type", "type")
@click.option("--connection", "connection_id")
@click.option("--since", help="Received then or later, ISO 8601.")
@click.option("--until", help="Received before, ISO 8601.")
@after_option
@limit_option
@json_option
def list_webhooks(*, as_json: bool, **filters: Any) -> None:  # noqa: ANN401 - handed to the query, which checks
    """List webhooks, in the order in which they were stored."""
    query = query_of(WebhookQuery, filters)
    with stored() as (_settings, database):
        page = Webhooks(database=database, threads=ThreadPool()).find(query)
    output.rows(page.webhooks, WEBHOOK_COLUMNS, as_json=as_json)
    tell_more(page.next)


@webhooks.command("show")
@click.argument("event_id", metavar="ID")
@click.option("--body", "is_body", is_flag=True, help="Its raw body, byte for byte as it was signed, and nothing else.")
@json_option
def show_webhook(*, event_id: str, is_body: bool, as_json: bool) -> None:
    """Show one webhook, by Meld's event id.

    For --body it takes the key that the body is encrypted with; that which `up` keeps is found.
    """
    if is_body and as_json:
        raise UsageError("Give --body or --json: a body is printed as it is.")
    with stored() as (settings, database):
        webhooks = Webhooks(database=database, threads=ThreadPool())
        if is_body:
            vault = Encryption(with_kept_encryption_key(settings).encryption_keys)
            click.echo(webhooks.body(event_id, vault), nl=False)
        else:
            output.one(webhooks.get(event_id), as_json=as_json)


@click.group()
def events() -> None:
    """The feed."""


@events.command("list")
@click.option("--after", type=click.IntRange(0), default=0, help="Only behind this position.")
@click.option("--type", "type")
@click.option("--connection", "connection_id")
@limit_option
@json_option
def list_events(*, as_json: bool, **filters: Any) -> None:  # noqa: ANN401 - handed to the query, which checks
    """List events, in the order of the feed."""
    query = query_of(EventQuery, filters)
    with stored() as (_settings, database):
        found, _end = _events(database).find(query, beyond=query.after)
    _print(found, as_json=as_json)


@events.command("tail")
@click.option("--after", type=click.IntRange(0), help="Begin behind this position; by default with what comes now.")
@click.option("--type", "type")
@click.option("--connection", "connection_id")
@click.option("--url", help="Where the service is; by default on this machine.")
@json_option
def tail_events(*, url: str | None, as_json: bool, **filters: Any) -> None:  # noqa: ANN401 - handed to the query
    """Print events as they come, until Ctrl-C.

    They come from a running service, which is asked with the first of the READ_TOKENS or ADMIN_TOKENS, or with the
    token that `up` has made. One that is restarted is waited for; nothing is missing then, and nothing comes twice.
    """
    query = query_of(StreamQuery, filters)
    settings = settings_for()
    tail = EventTail(
        url=url or own_url(settings),
        token=reading_token(settings),
        query=query,
        echo=lambda event: _print([event], as_json=as_json),
        say=lambda words: click.echo(words, err=True),
    )
    for signum in (signal.SIGTERM, signal.SIGINT):
        # A shell has what it starts in the background ignore SIGINT.
        signal.signal(signum, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        tail.run()


@events.command("show")
@click.argument("position", type=click.IntRange(1))
@json_option
def show_event(*, position: int, as_json: bool) -> None:
    """Show one event, by its position in the feed."""
    with stored() as (_settings, database):
        found, _end = _events(database).find(EventQuery(limit=1), beyond=position - 1)
    if not found or found[0].position != position:
        raise UsageError(f"There is no event at position {position}.")
    output.one(found[0], as_json=as_json)


def _print(found: list[Event], *, as_json: bool) -> None:
    for event in found:
        click.echo(event.model_dump_json() if as_json else output.event_line(event))


def _connections(database: Database, wake: Callable[[Collection[str]], None] = lambda _ids: None) -> Connections:
    return Connections(database=database, threads=ThreadPool(), wake=wake)


def _events(database: Database) -> Events:
    return Events(database=database, threads=ThreadPool(), growth=FeedNotifier(database=database))


COMMANDS = (connections, webhooks, events)
