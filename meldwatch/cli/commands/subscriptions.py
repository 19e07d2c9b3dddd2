"""The commands about subscriptions. They may run beside the service, whose clock sends within a second."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import click
from pydantic import ValidationError as InvalidError

from meldwatch.cli import output
from meldwatch.cli.context import open_database, operator_name, settings_for
from meldwatch.cli.options import json_option, limit_option
from meldwatch.process.factories import subscribe_of
from meldwatch.process.generated_secrets import with_kept_encryption_key
from runtime.errors import UsageError
from schemas.api_queries import SubscriptionQuery
from schemas.connection_changes import EventType
from schemas.subscriptions import NewSubscription, SubscriptionChange
from service.subscriptions.manage import SubscriptionManager

COLUMNS = ("name", "url", "types", "state", "failing", "error", "id")

name_argument = click.argument("name", metavar="NAME")


@click.group()
def subscriptions() -> None:
    """Consumers that events are pushed to; each is named by its name or its id."""


@subscriptions.command("add")
@name_argument
@click.argument("url", metavar="URL")
@click.option("--type", "types", multiple=True, type=click.Choice(get_args(EventType)), help="Repeat; by default all.")
@click.option(
    "--from-position",
    type=click.IntRange(0),
    help="Begin behind this position of the feed; by default with what comes from now on.",
)
@json_option
def add(*, as_json: bool, **wish: Any) -> None:  # noqa: ANN401 - handed to the shape, which checks
    """Have events pushed to a URL. Prints the secret that signs them: it is shown this once."""
    try:
        new = NewSubscription.model_validate({name: value for name, value in wish.items() if value is not None})
    except InvalidError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"{str(detail['loc'][0]).upper()}: {detail['msg']}") from None
    with _subscribe() as subscribe:
        output.one(subscribe.create(new, who=operator_name()), as_json=as_json)


@subscriptions.command("list")
@click.option("--after", help="Go on behind this name.")
@limit_option
@json_option
def list_subscriptions(*, after: str | None, limit: int, as_json: bool) -> None:
    """List subscriptions, in the order of their names."""
    with _subscribe() as subscribe:
        page = subscribe.find(SubscriptionQuery(after=after or None, limit=limit))
    output.rows(page.subscriptions, COLUMNS, as_json=as_json)
    if page.next is not None:
        click.echo(f"there are more: --after {page.next!r}", err=True)


@subscriptions.command("show")
@name_argument
@json_option
def show_subscription(*, name: str, as_json: bool) -> None:
    """Show one subscription."""
    with _subscribe() as subscribe:
        output.one(subscribe.get(name), as_json=as_json)


@subscriptions.command("pause")
@name_argument
def pause(*, name: str) -> None:
    """Push nothing more, until it is resumed; nothing is dropped meanwhile."""
    with _subscribe() as subscribe:
        subscribe.change(name, SubscriptionChange(state="paused"), who=operator_name())
    click.echo(f"{name} is paused")


@subscriptions.command("resume")
@name_argument
def resume(*, name: str) -> None:
    """Push again what was missed while it was paused, disabled or failing, beginning now."""
    with _subscribe() as subscribe:
        subscribe.change(name, SubscriptionChange(state="active"), who=operator_name())
    click.echo(f"{name} is active")


@subscriptions.command("rotate")
@name_argument
@json_option
def rotate(*, name: str, as_json: bool) -> None:
    """Make a new secret, shown this once; for a day the one before signs as well."""
    with _subscribe() as subscribe:
        output.one(subscribe.rotate(name, who=operator_name()), as_json=as_json)


@subscriptions.command("redrive")
@name_argument
def redrive(*, name: str) -> None:
    """Take the deliveries up again that were given up."""
    with _subscribe() as subscribe:
        receipt = subscribe.redrive(name, who=operator_name())
    click.echo(f"{receipt.redriven} dead deliveries are tried again")


@subscriptions.command("remove")
@name_argument
def remove(*, name: str) -> None:
    """Remove a subscription with all that it is owed."""
    with _subscribe() as subscribe:
        subscribe.remove(name, who=operator_name())
    click.echo(f"{name} is removed")


@contextmanager
def _subscribe() -> Iterator[SubscriptionManager]:
    settings = with_kept_encryption_key(settings_for())
    database = open_database(settings)
    try:
        yield subscribe_of(settings, database)
    finally:
        database.close()


COMMANDS = (subscriptions,)
