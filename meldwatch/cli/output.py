"""Output of commands: a table for people, JSON Lines for scripts, progress on a terminal.

Rich is imported for a terminal only: it is slow to import.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import click
from pydantic import BaseModel


def print_items(items: Iterable[BaseModel], columns: Sequence[str], *, as_json: bool) -> None:
    """Print items: as JSON Lines with all their fields, or as a table.

    Args:
        items: The items, all of one model.
        columns: The fields that the table shows.
        as_json: Whether to print JSON Lines.
    """
    if as_json:
        for item in items:
            click.echo(item.model_dump_json())
        return
    dumped = (item.model_dump(mode="json") for item in items)
    print_table(columns, ([format_value(values[column]) for column in columns] for values in dumped))


def print_item(item: BaseModel, *, as_json: bool) -> None:
    """Print one item: as a line of JSON, or one field on each line."""
    if as_json:
        click.echo(item.model_dump_json())
        return
    for name, value in item.model_dump(mode="json").items():
        click.echo(f"{name:24} {format_value(value)}")


def print_counts(title: str, counts: Mapping[str, int], *, as_json: bool) -> None:
    """Print a number for each kind: as one JSON object, or as a table whose second column has this title."""
    if as_json:
        click.echo(json.dumps(counts))
    else:
        print_table(("kind", title), ((kind, str(count)) for kind, count in counts.items()))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: wrapped to the width of a terminal, or else one line for each row."""
    if not sys.stdout.isatty():
        lines = [headers, *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*headers, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


@contextmanager
def show_progress(unit: str) -> Iterator[Callable[..., None]]:
    """Show progress on a terminal while the block runs: a count and its unit.

    Yields:
        A function that takes the count, and optionally another text for the unit.
    """
    if not sys.stderr.isatty():
        yield lambda _count, _unit=unit: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.completed} {task.description}"),
        TimeElapsedColumn(),
        transient=True,
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda count, unit=unit: bar.update(task, completed=count, description=unit)


def format_value(value: object) -> str:
    """Return a value of JSON as text for people: texts without quotes, ``-`` for null."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)
