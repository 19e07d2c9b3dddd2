"""``meldwatch subscriptions``: manage the consumers that events are pushed to.

The commands may run beside the service, whose scheduler notices changes within a second.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import click
from pydantic import ValidationError

from meldwatch.cli import output
from meldwatch.cli.context import open_settings_and_database
from meldwatch.cli.operator_name import get_operator_name
from meldwatch.cli.options import json_option, print_next_page_hint, query_options
from meldwatch.process.generated_secrets import load_stored_encryption_key
from runtime.errors import UsageError
from schemas.api_queries import SubscriptionQuery
from schemas.connection_changes import EventType
from schemas.subscriptions import NewSubscription, SubscriptionChange
from service.subscriptions.manage import SubscriptionManager

COLUMNS = ("name", "url", "types", "state", "failing", "error", "id")

name_argument = click.argument("name", metavar="NAME")


@click.group()
def subscriptions() -> None:
    """Manage the consumers that events are pushed to.

    Commands take the name of a subscription or its id.
    """


@subscriptions.command("add")
@name_argument
@click.argument("url", metavar="URL")
@click.option(
    "--type", "types", multiple=True, type=click.Choice(get_args(EventType)), help="May be repeated; by default, all."
)
@click.option(
    "--from-position",
    type=click.IntRange(0),
    help="Push events after this position of the feed; by default, only events from now on.",
)
@json_option
def add(*, as_json: bool, **values: Any) -> None:  # noqa: ANN401 - the model validates them
    """Push events to a URL. Prints the secret that signs them; it is shown only once."""
    try:
        new = NewSubscription.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"{str(detail['loc'][0]).upper()}: {detail['msg']}") from None
    with _open_manager() as manager:
        output.print_item(manager.create(new, who=get_operator_name()), as_json=as_json)


@subscriptions.command("list")
@query_options(SubscriptionQuery)
@json_option
def list_subscriptions(*, query: SubscriptionQuery, as_json: bool) -> None:
    """List subscriptions, in the order of their names."""
    with _open_manager() as manager:
        page = manager.list_page(query)
    output.print_items(page.subscriptions, COLUMNS, as_json=as_json)
    print_next_page_hint(page.next)


@subscriptions.command("show")
@name_argument
@json_option
def show_subscription(*, name: str, as_json: bool) -> None:
    """Show one subscription."""
    with _open_manager() as manager:
        output.print_item(manager.get(name), as_json=as_json)


@subscriptions.command("pause")
@name_argument
def pause(*, name: str) -> None:
    """Pause a subscription: nothing is pushed until it is resumed, and nothing is dropped."""
    with _open_manager() as manager:
        manager.update(name, SubscriptionChange(state="paused"), who=get_operator_name())
    click.echo(f"{name} is paused")


@subscriptions.command("resume")
@name_argument
def resume(*, name: str) -> None:
    """Resume a subscription, and push at once what it missed while it was paused, disabled or failing."""
    with _open_manager() as manager:
        manager.update(name, SubscriptionChange(state="active"), who=get_operator_name())
    click.echo(f"{name} is active")


@subscriptions.command("rotate")
@name_argument
@json_option
def rotate(*, name: str, as_json: bool) -> None:
    """Generate a new secret, shown only once. For a day, the previous secret signs as well."""
    with _open_manager() as manager:
        output.print_item(manager.rotate_secret(name, who=get_operator_name()), as_json=as_json)


@subscriptions.command("redrive")
@name_argument
def redrive(*, name: str) -> None:
    """Retry the dead deliveries (dead letters): those that failed for three days."""
    with _open_manager() as manager:
        receipt = manager.redrive(name, who=get_operator_name())
    click.echo(f"{receipt.redriven} dead deliveries are tried again")


@subscriptions.command("remove")
@name_argument
def remove(*, name: str) -> None:
    """Remove a subscription and its pending deliveries."""
    with _open_manager() as manager:
        manager.delete(name, who=get_operator_name())
    click.echo(f"{name} is removed")


@contextmanager
def _open_manager() -> Iterator[SubscriptionManager]:
    from meldwatch.process.factories import make_subscription_manager

    with open_settings_and_database() as (settings, database):
        yield make_subscription_manager(load_stored_encryption_key(settings), database)
