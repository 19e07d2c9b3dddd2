"""What the commands that look at what is stored have in common: how they are asked, and what they open."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from pydantic import ValidationError as InvalidError

from meldwatch.cli.context import open_database, settings_for
from runtime.database import Database
from runtime.errors import UsageError
from runtime.settings import Settings
from schemas.api_queries import Query

Q = TypeVar("Q", bound=Query)

json_option = click.option("--json", "as_json", is_flag=True, help="JSON Lines instead of a table.")
limit_option = click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
after_option = click.option("--after", help="Go on behind this cursor.")


def query_of(shape: type[Q], given: dict[str, Any]) -> Q:
    """Return the query that options amount to.

    Raises:
        UsageError: Naming the first option that is out of bounds.
    """
    try:
        return shape.model_validate({name: value for name, value in given.items() if value is not None})
    except InvalidError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"--{str(detail['loc'][0]).replace('_', '-')}: {detail['msg']}") from None


@contextmanager
def stored() -> Iterator[tuple[Settings, Database]]:
    """Open the database of the settings while the block runs."""
    settings = settings_for()
    database = open_database(settings)
    try:
        yield settings, database
    finally:
        database.close()


def tell_more(cursor: str | None) -> None:
    """Say how to go on, where there is more."""
    if cursor is not None:
        click.echo(f"there are more: --after {cursor}", err=True)
