"""``meldwatch events``: list, show and follow (tail) the events of the feed."""

import signal
from collections.abc import Iterable
from contextlib import suppress

import click

from meldwatch.cli import output
from meldwatch.cli.context import get_service_url, load_command_settings, open_settings_and_database
from meldwatch.cli.item_lines import format_event
from meldwatch.cli.options import json_option, query_options
from meldwatch.process.generated_secrets import get_read_token
from runtime.errors import UsageError
from schemas.api_queries import EventQuery, StreamQuery
from schemas.events import Event


@click.group()
def events() -> None:
    """Show the feed of events."""


@events.command("list")
@query_options(EventQuery, exclude=["wait"])
@json_option
def list_events(*, query: EventQuery, as_json: bool) -> None:
    """List events, in the order of the feed."""
    from service.resources.events import read_feed

    with open_settings_and_database() as (_settings, database):
        found, _end = read_feed(database, query, after=query.after)
    _print_events(found, as_json=as_json)


@events.command("tail")
@query_options(StreamQuery)
@click.option("--url", help="The URL of the service; by default, the service on this machine.")
@json_option
def tail_events(*, query: StreamQuery, url: str | None, as_json: bool) -> None:
    """Print events as they are emitted, until Ctrl-C.

    The events come from a running service. The command authenticates with the first of READ_TOKENS or ADMIN_TOKENS,
    or with the token that `up` has generated. If the service restarts, the command waits for it and continues where it
    was: no event is missing, and none is printed twice.
    """
    from meldwatch.cli.event_tail import EventTail

    settings = load_command_settings()
    tail = EventTail(
        url=url or get_service_url(settings),
        token=get_read_token(settings),
        query=query,
        print_event=lambda event: _print_events([event], as_json=as_json),
        print_status=lambda text: click.echo(text, err=True),
    )
    for signum in (signal.SIGTERM, signal.SIGINT):
        # A shell starts background commands with SIGINT ignored.
        signal.signal(signum, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        tail.run()


@events.command("show")
@click.argument("position", type=click.IntRange(1))
@json_option
def show_event(*, position: int, as_json: bool) -> None:
    """Show one event, by its position in the feed."""
    from service.resources.events import read_feed

    with open_settings_and_database() as (_settings, database):
        found, _end = read_feed(database, EventQuery(limit=1), after=position - 1)
    if not found or found[0].position != position:
        raise UsageError(f"There is no event at position {position}.")
    output.print_item(found[0], as_json=as_json)


def _print_events(events: Iterable[Event], *, as_json: bool) -> None:
    for event in events:
        click.echo(event.model_dump_json() if as_json else format_event(event))
