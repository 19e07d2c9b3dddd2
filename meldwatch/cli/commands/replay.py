"""The commands that go over what is stored once more: replay. They may run beside the service."""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, NoReturn, get_args

import click
from pydantic import ValidationError as InvalidError

from meldwatch.cli import output, replay_progress
from meldwatch.cli.context import open_database, operator_name, settings_for
from meldwatch.cli.options import json_option, limit_option
from meldwatch.process.factories import foresee_of, replays_of
from runtime.database import Database
from runtime.errors import UsageError
from runtime.settings import Settings
from schemas.api_queries import ReplayQuery
from schemas.api_resources import WebhookState
from schemas.connection_changes import EventType
from schemas.replays import (
    DEFAULT_RATE,
    HIGHEST_RATE,
    LOWEST_RATE,
    EventFilter,
    NewReplay,
    ReplayKind,
    WebhookFilter,
)
from service.replay.manage import subscription_of
from service.replay.selection import newest, of_events, of_webhooks, resent

COLUMNS = ("id", "kind", "state", "filter", "total", "done", "pending", "created_at", "who", "error")
RESENT_COLUMNS = ("connection_id", "type", "events", "first_position", "last_position")
RATES = click.FloatRange(LOWEST_RATE, HIGHEST_RATE)

resume_option = click.option("--resume", metavar="REPLAY", help="Go on with this one, where it was stopped or killed.")
all_option = click.option("--all", "is_all", is_flag=True, help="Needed where no filter is given.")
dry_option = click.option("--dry-run", "is_dry_run", is_flag=True, help="Say what would happen, and write nothing.")


@click.group()
def replay() -> None:
    """Go over what is stored once more: webhooks, whose connections are read again, or events, which are sent again.

    A replay runs to its end. Ctrl-C stops it, and --resume goes on with it, also after a kill. It exits with 0 where
    it has come to its end, with 1 where it has not.
    """


@replay.command("webhooks")
@click.option("--event-id", help="This one, by Meld's event id.")
@click.option("--connection", help="Those that name this connection.")
@click.option("--type", help="Of this eventType of Meld's.")
@click.option("--state", type=click.Choice(get_args(WebhookState)), help="In this state.")
@click.option("--since", help="Received then or later, ISO 8601.")
@click.option("--until", help="Received before, ISO 8601.")
@all_option
@click.option("--rate", type=RATES, help=f"Reads a second, at most; by default {DEFAULT_RATE:g}.")
@resume_option
@dry_option
@json_option
def replay_webhooks(*, resume: str | None, is_dry_run: bool, as_json: bool, **given: Any) -> None:  # noqa: ANN401 - below
    """Have the connections that stored webhooks name read from Meld again, each once.

    The service's workers read; so the mirror can only come to what Meld says now, and only what changes by that is
    told. With --dry-run this command reads Meld, and prints what would change, connection by connection: it exits with
    1 where anything would, or a read would fail.
    """
    if resume is not None:
        _resume("webhooks", resume, given, is_dry_run=is_dry_run, as_json=as_json)
    wish = _wish("webhooks", given)
    if is_dry_run:
        sys.exit(_foresee(wish, as_json=as_json))
    _start(wish, as_json=as_json)


@replay.command("events")
@click.option("--subscription", help="Whom they are sent to again; by its name or its id.")
@click.option("--after", type=click.IntRange(0), help="Behind this position of the feed.")
@click.option("--until-position", type=click.IntRange(0), help="Up to this position of the feed.")
@click.option("--type", type=click.Choice(get_args(EventType)), help="Of this type; by default those it subscribes to.")
@click.option("--connection", help="About this connection.")
@click.option("--since", help="With this time or a later one, ISO 8601.")
@click.option("--until", help="With an earlier time, ISO 8601.")
@all_option
@resume_option
@dry_option
@json_option
def replay_events(*, resume: str | None, is_dry_run: bool, as_json: bool, **given: Any) -> None:  # noqa: ANN401 - below
    """Send events to a subscription again: the same ones, each with the header meldwatch-replay.

    For each connection they are sent in order, behind what is owed already and before what comes later. With --dry-run
    it is printed how many of each type would be sent for each connection.
    """
    if resume is not None:
        _resume("events", resume, given, is_dry_run=is_dry_run, as_json=as_json)
    wish = _wish("events", given)
    if is_dry_run:
        _count(wish, as_json=as_json)
        return
    _start(wish, as_json=as_json)


@replay.command("list")
@click.option("--after", help="Go on behind this id.")
@limit_option
@json_option
def list_replays(*, after: str | None, limit: int, as_json: bool) -> None:
    """List replays, in the order in which they were started."""
    with _stored() as (_settings, database):
        page = replays_of(database).find(ReplayQuery(after=after or None, limit=limit))
    output.rows(page.replays, COLUMNS, as_json=as_json)
    if page.next is not None:
        click.echo(f"there are more: --after {page.next}", err=True)


@replay.command("show")
@click.argument("replay_id", metavar="ID")
@json_option
def show_replay(*, replay_id: str, as_json: bool) -> None:
    """Show one replay, and how far it has come."""
    with _stored() as (_settings, database):
        output.one(replays_of(database).get(replay_id), as_json=as_json)


@replay.command("stop")
@click.argument("replay_id", metavar="ID")
def stop_replay(*, replay_id: str) -> None:
    """Stop a replay, whoever runs it; what it has asked for is done all the same."""
    with _stored() as (_settings, database):
        stopped = replays_of(database).stop(replay_id, who=operator_name())
    click.echo(f"{stopped.id} is stopped; meldwatch replay {stopped.kind} --resume {stopped.id} goes on with it")


def _wish(kind: ReplayKind, given: Mapping[str, Any]) -> NewReplay:
    """Return what is wanted; the shape checks what it is made of."""
    wanted = {name: value for name, value in given.items() if value is not None and name != "is_all"}
    try:
        return NewReplay.model_validate({"kind": kind, "all": given["is_all"], **wanted})
    except InvalidError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        words = detail["msg"].removeprefix("Value error, ")
        name = f"--{str(detail['loc'][0]).replace('_', '-')}: " if detail["loc"] else ""
        raise UsageError(name + words) from None


def _start(wish: NewReplay, *, as_json: bool) -> None:
    with _stored() as (settings, database):
        replays = replays_of(database)
        begun = replays.start(wish, who=operator_name(), is_attended=True)
        sys.exit(replay_progress.run(settings, database, replays, begun, as_json=as_json))


def _resume(kind: ReplayKind, replay_id: str, given: Mapping[str, Any], *, is_dry_run: bool, as_json: bool) -> NoReturn:
    """Go on with a replay, and end."""
    rate = given.get("rate")
    if is_dry_run or any(value for name, value in given.items() if name != "rate"):
        raise UsageError("--resume goes on with what was wanted at the start. Give nothing with it but --rate.")
    with _stored() as (settings, database):
        replays = replays_of(database)
        begun = replays.attend(replay_id, kind, who=operator_name(), rate=rate)
        sys.exit(replay_progress.run(settings, database, replays, begun, as_json=as_json))


def _foresee(wish: NewReplay, *, as_json: bool) -> int:
    """Print what reads would change; return the exit code."""
    counts = dict.fromkeys(("connections", "to change", "events", "not read"), 0)
    with _stored("meld_api_key") as (settings, database):
        with database.read() as session:
            end = newest(session, "webhooks")
        selection = of_webhooks(WebhookFilter.model_validate(wish.filter), newest=end)
        ids = (each.connection_id for each in chain.from_iterable(selection.chunks(database)))
        rate = wish.rate or DEFAULT_RATE
        ahead = foresee_of(settings, database, rate=rate, wait=threading.Event().wait)
        with output.progress("connections looked at") as progress:
            for foreseen in ahead.look(ids):
                click.echo(foreseen.model_dump_json() if as_json else output.foreseen_lines(foreseen))
                counts["connections"] += 1
                counts["to change"] += bool(foreseen.changes or foreseen.unshown_changes)
                counts["events"] += len(foreseen.events)
                counts["not read"] += foreseen.failure is not None
                progress(counts["connections"])
    click.echo(", ".join(f"{count} {word}" for word, count in counts.items()) + "; nothing was written", err=True)
    return 1 if counts["to change"] or counts["not read"] else 0


def _count(wish: NewReplay, *, as_json: bool) -> None:
    """Print how many events would be sent."""
    assert wish.subscription is not None
    with _stored() as (_settings, database):
        with database.read() as session:
            end, types = newest(session, "events"), subscription_of(session, wish.subscription).types
        selection = of_events(EventFilter.model_validate(wish.filter), newest=end, types=types)
        total = 0
        for chunk in selection.chunks(database):
            with database.read() as session:
                found = resent(session, selection, [each.connection_id for each in chunk])
            if found:
                output.rows(found, RESENT_COLUMNS, as_json=as_json)
            total += sum(each.events for each in found)
    click.echo(f"{total} events would be sent; nothing was written", err=True)


@contextmanager
def _stored(*needs: str) -> Iterator[tuple[Settings, Database]]:
    settings = settings_for(*needs)
    database = open_database(settings)
    try:
        yield settings, database
    finally:
        database.close()


COMMANDS = (replay,)
