"""``meldwatch replay``: replay stored webhooks (read their connections again) or events (push them again).

The commands may run beside the service, or without it.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, NoReturn, TypeVar, get_args

import click
from pydantic import ValidationError

from meldwatch.cli import output, replay_progress
from meldwatch.cli.context import open_settings_and_database
from meldwatch.cli.item_lines import format_refetch_preview
from meldwatch.cli.operator_name import get_operator_name
from meldwatch.cli.options import json_option, make_option, print_next_page_hint, query_options
from meldwatch.process.factories import make_refetch_preview, make_replay_manager
from runtime.errors import UsageError
from schemas.api_queries import ReplayQuery
from schemas.connection_changes import EventType
from schemas.replays import (
    DEFAULT_RATE,
    MAX_RATE,
    MIN_RATE,
    EventFilter,
    NewReplay,
    ReplayFilter,
    ReplayKind,
    WebhookFilter,
)
from service.replay.selection import get_newest, preview_resend, select_events, select_webhooks
from service.subscriptions.lookup import get_subscription

R = TypeVar("R")

COLUMNS = ("id", "kind", "state", "filter", "total", "done", "pending", "created_at", "who", "error")
RESEND_COLUMNS = ("connection_id", "type", "events", "first_position", "last_position")

resume_option = click.option(
    "--resume", metavar="REPLAY", help="Resume this replay where it was stopped; join it if it runs."
)
all_option = click.option("--all", "is_all", is_flag=True, help="Replay everything; required without a filter.")
dry_run_option = click.option("--dry-run", "is_dry_run", is_flag=True, help="Print what would happen; write nothing.")


def filter_options(
    model: type[ReplayFilter], *, exclude: Iterable[str] = ()
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command one option for each field of a replay's filter."""

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        for name, field in reversed(model.model_fields.items()):
            if name not in set(exclude):
                command = make_option(name, field)(command)
        return command

    return decorate


@click.group()
def replay() -> None:
    """Replay stored webhooks or events.

    A replay of webhooks reads their connections from Meld again; a replay of events pushes events again.

    The command runs the replay to its end. Ctrl-C stops it, and --resume resumes it. If the command is killed, the
    service runs the replay to its end; --resume joins it. Exit code 0 means that the replay has finished, 1 that it has
    not.
    """


@replay.command("webhooks")
@filter_options(WebhookFilter)
@all_option
@click.option(
    "--rate",
    type=click.FloatRange(MIN_RATE, MAX_RATE),
    help=f"The maximum number of reads per second; by default {DEFAULT_RATE:g}.",
)
@resume_option
@dry_run_option
@json_option
def replay_webhooks(*, resume: str | None, is_dry_run: bool, as_json: bool, **given: Any) -> None:  # noqa: ANN401 - validated below
    """Read the connections that stored webhooks name from Meld again, each once.

    The replay requests reads, which the workers do. So the mirror changes only to what Meld reports now, and only real
    changes become events. With --dry-run, the command itself reads Meld and prints what would change, connection by
    connection: exit code 1 means that something would change or that a read would fail.
    """
    if resume is not None:
        _resume("webhooks", resume, given, is_dry_run=is_dry_run, as_json=as_json)
    new = _make_request("webhooks", given)
    if is_dry_run:
        sys.exit(_preview_reads(new, as_json=as_json))
    _start(new, as_json=as_json)


@replay.command("events")
@click.option("--subscription", help="The subscription to push the events to, by its name or its id.")
@filter_options(EventFilter, exclude={"type"})
@click.option("--type", type=click.Choice(get_args(EventType)), help="The type; by default those of the subscription.")
@all_option
@resume_option
@dry_run_option
@json_option
def replay_events(*, resume: str | None, is_dry_run: bool, as_json: bool, **given: Any) -> None:  # noqa: ANN401 - validated below
    """Push events to a subscription again: the same events, each with the header meldwatch-replay.

    The events of a connection are pushed in order, behind its pending deliveries and before later ones. With --dry-run,
    the command prints how many events of each type would be pushed for each connection.
    """
    if resume is not None:
        _resume("events", resume, given, is_dry_run=is_dry_run, as_json=as_json)
    new = _make_request("events", given)
    if is_dry_run:
        _preview_deliveries(new, as_json=as_json)
        return
    _start(new, as_json=as_json)


@replay.command("list")
@query_options(ReplayQuery)
@json_option
def list_replays(*, query: ReplayQuery, as_json: bool) -> None:
    """List replays, oldest first."""
    with open_settings_and_database() as (_settings, database):
        page = make_replay_manager(database).list_page(query)
    output.print_items(page.replays, COLUMNS, as_json=as_json)
    print_next_page_hint(page.next)


@replay.command("show")
@click.argument("replay_id", metavar="ID")
@json_option
def show_replay(*, replay_id: str, as_json: bool) -> None:
    """Show one replay and its progress."""
    with open_settings_and_database() as (_settings, database):
        output.print_item(make_replay_manager(database).get(replay_id), as_json=as_json)


@replay.command("stop")
@click.argument("replay_id", metavar="ID")
def stop_replay(*, replay_id: str) -> None:
    """Stop a replay, whichever process runs it. Reads and deliveries that it has requested are still done."""
    with open_settings_and_database() as (_settings, database):
        stopped = make_replay_manager(database).stop(replay_id, who=get_operator_name())
    click.echo(f"{stopped.id} is stopped. To resume it: meldwatch replay {stopped.kind} --resume {stopped.id}")


def _make_request(kind: ReplayKind, given: Mapping[str, Any]) -> NewReplay:
    """Validate the options as a new replay.

    Raises:
        UsageError: Naming the first option that is invalid.
    """
    values = {name: value for name, value in given.items() if value is not None and name != "is_all"}
    try:
        return NewReplay.model_validate({"kind": kind, "all": given["is_all"], **values})
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        message = detail["msg"].removeprefix("Value error, ")
        name = f"--{str(detail['loc'][0]).replace('_', '-')}: " if detail["loc"] else ""
        raise UsageError(name + message) from None


def _start(new: NewReplay, *, as_json: bool) -> NoReturn:
    """Create a replay, run it, and exit."""
    with open_settings_and_database() as (settings, database):
        manager = make_replay_manager(database)
        created = manager.create(new, who=get_operator_name())
        sys.exit(replay_progress.run_replay(settings, database, manager, created, as_json=as_json))


def _resume(kind: ReplayKind, replay_id: str, given: Mapping[str, Any], *, is_dry_run: bool, as_json: bool) -> NoReturn:
    """Resume or join a replay, and exit."""
    rate = given.get("rate")
    if is_dry_run or any(value for name, value in given.items() if name != "rate"):
        raise UsageError("--resume keeps the filters of the replay. Give nothing with it but --rate.")
    with open_settings_and_database() as (settings, database):
        manager = make_replay_manager(database)
        resumed = manager.resume(replay_id, who=get_operator_name(), kind=kind, rate=rate)
        sys.exit(replay_progress.run_replay(settings, database, manager, resumed, as_json=as_json))


def _preview_reads(new: NewReplay, *, as_json: bool) -> int:
    """Print what the reads would change (dry run); return the exit code."""
    counts = dict.fromkeys(("connections", "to change", "events", "not read"), 0)
    with open_settings_and_database("meld_api_key") as (settings, database):
        with database.read() as session:
            newest = get_newest(session, "webhooks")
        selection = select_webhooks(WebhookFilter.model_validate(new.filter), newest=newest)
        ids = (each.connection_id for each in chain.from_iterable(selection.batches(database)))
        rate = new.rate or DEFAULT_RATE
        previews = make_refetch_preview(settings, database, rate=rate, wait=threading.Event().wait)
        with output.show_progress("connections read") as show:
            for preview in previews.preview(ids):
                click.echo(preview.model_dump_json() if as_json else format_refetch_preview(preview))
                counts["connections"] += 1
                counts["to change"] += bool(preview.changes or preview.unshown_changes)
                counts["events"] += len(preview.events)
                counts["not read"] += preview.failure is not None
                show(counts["connections"])
    click.echo(", ".join(f"{count} {name}" for name, count in counts.items()) + "; nothing was written", err=True)
    return 1 if counts["to change"] or counts["not read"] else 0


def _preview_deliveries(new: NewReplay, *, as_json: bool) -> None:
    """Print how many events would be pushed (dry run)."""
    assert new.subscription is not None
    with open_settings_and_database() as (_settings, database):
        with database.read() as session:
            newest, types = get_newest(session, "events"), get_subscription(session, new.subscription).types
        selection = select_events(EventFilter.model_validate(new.filter), newest=newest, types=types)
        total = 0
        for batch in selection.batches(database):
            with database.read() as session:
                found = preview_resend(session, selection, [each.connection_id for each in batch])
            if found:
                output.print_items(found, RESEND_COLUMNS, as_json=as_json)
            total += sum(each.events for each in found)
    click.echo(f"{total} events would be sent; nothing was written", err=True)
