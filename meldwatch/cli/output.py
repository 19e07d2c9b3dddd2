"""How things look on a terminal: a table; and JSON Lines for everybody else."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from pydantic import BaseModel
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from schemas.events import Event
from schemas.rebuild_report import RebuildFinding
from schemas.replays import Foreseen
from schemas.subscriptions import Delivery
from schemas.timeline import ActItem, DeliveryItem, EventItem, Item, Read, ReadItem, WebhookItem
from service.reconcile.report import ReconcileReport
from service.rejected.reverify import Reverified

LONGEST_VALUE = 100
"""Characters of a value that a line for people shows."""


def rows(items: Iterable[BaseModel], columns: Sequence[str], *, as_json: bool) -> None:
    """Print items: as JSON Lines with all their fields, or as a table of some columns.

    Args:
        items: Shapes of ours.
        columns: The fields that the table shows.
        as_json: Which of the two.
    """
    if as_json:
        for item in items:
            click.echo(item.model_dump_json())
        return
    table = Table(*columns, box=None, pad_edge=False)
    for item in items:
        values = item.model_dump(mode="json")
        table.add_row(*(_cell(values[column]) for column in columns))
    _console().print(table)


def one(item: BaseModel, *, as_json: bool) -> None:
    """Print one item: as a line of JSON, or a field a line."""
    if as_json:
        click.echo(item.model_dump_json())
        return
    for name, value in item.model_dump(mode="json").items():
        click.echo(f"{name:24} {_cell(value)}")


def drift(report: ReconcileReport, *, as_json: bool) -> None:
    """Print what a reconcile came to."""
    if as_json:
        said = {"pages": report.pages, "listed": report.listed, "unreadable": report.unreadable}
        click.echo(json.dumps({**said, **report.drift, "examples": report.examples}))
        return
    click.echo(f"{report.listed} connections on {report.pages} pages, and {report.unreadable} that could not be read")
    table = Table("drift", "count", "examples", box=None, pad_edge=False)
    for kind, count in report.drift.items():
        table.add_row(kind, str(count), ", ".join(report.examples.get(kind, [])))
    _console().print(table)


def reverified(came_to: Reverified, *, as_json: bool) -> None:
    """Print what trying refused webhooks again came to."""
    said = {name: getattr(came_to, name) for name in ("admitted", "repeats", "truncated", "sealed", "unstorable")}
    refused = dict(sorted(came_to.refused.items()))
    if as_json:
        click.echo(json.dumps({**said, "refused": refused}))
        return
    table = Table("result", "count", box=None, pad_edge=False)
    for name, count in {**said, **{f"still refused: {reason}": count for reason, count in refused.items()}}.items():
        table.add_row(name, str(count))
    _console().print(table)


def counts(what: str, numbers: Mapping[str, int], *, as_json: bool) -> None:
    """Print numbers by kind."""
    if as_json:
        click.echo(json.dumps(numbers))
        return
    table = Table("kind", what, box=None, pad_edge=False)
    for kind, number in numbers.items():
        table.add_row(kind, str(number))
    _console().print(table)


@contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """Show how far something has come, on a terminal: a number, and what it counts if that is said otherwise now."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.completed} {task.description}"),
        TimeElapsedColumn(),
        transient=True,
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count, what=what: bar.update(task, completed=count, description=what)


def event_line(event: Event) -> str:
    """Return an event as one line for a person."""
    time = event.time.strftime("%H:%M:%S")
    return f"{event.position:>6}  {time}  {_told(event)}"


def _told(event: Event) -> str:
    data = event.data
    before, now = (_place(data[name]) for name in ("previous", "current"))
    role = f" ({data['role']})" if "role" in data else ""
    trigger = data["cause"]["trigger"]
    return f"{event.type:36} {event.subject}  {before} -> {now}{role}  [{trigger}]"


def item_line(item: Item) -> str:
    """Return what happened to a connection as one line for a person, and a line for each field that a read changed."""
    time = item.at.strftime("%Y-%m-%d %H:%M:%S")
    match item:
        case WebhookItem(webhook=webhook):
            error = f": {webhook.error}" if webhook.error else ""
            return f"{time}  webhook  {webhook.type}  {webhook.event_id}  {webhook.state}{error}"
        case EventItem(event=event):
            return f"{time}  event    {_told(event)}"
        case DeliveryItem(delivery=delivery):
            return f"{time}  delivery {_delivered(delivery)}"
        case ActItem(act=act):
            return f"{time}  act      {act.act}  by {act.who}  {_cell(act.details)}"
        case ReadItem(read=read):
            return f"{time}  read     {_read(read)}"


def _read(read: Read) -> str:
    lines = [f"{'found' if read.found else 'gone'}  [{read.trigger}]"]
    lines += [f"{'':23}{each.field}: {_short(each.before)} -> {_short(each.after)}" for each in read.changes]
    if read.unshown_changes:
        lines.append(f"{'':23}and, not shown: {', '.join(read.unshown_changes)}")
    return "\n".join(lines)


def _delivered(delivery: Delivery) -> str:
    error = f": {delivery.error}" if delivery.error else ""
    when = f" at {delivery.delivered_at:%Y-%m-%d %H:%M:%S}" if delivery.delivered_at is not None else ""
    times = f"{delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}"
    return f"of {delivery.position} to {delivery.subscription_id}  {delivery.state}{when}  {times}{error}"


def foreseen_lines(foreseen: Foreseen) -> str:
    """Return what a read of a connection would change as lines for a person."""
    if foreseen.is_clean:
        return f"{foreseen.connection_id}  nothing would change"
    if foreseen.failure is not None:
        return f"{foreseen.connection_id}  would not be read, and the mirror stays as it is: {foreseen.failure}"
    lines = [f"{each.field}: {_short(each.before)} -> {_short(each.after)}" for each in foreseen.changes]
    if foreseen.unshown_changes:
        lines.append(f"and, not shown: {', '.join(foreseen.unshown_changes)}")
    for event in foreseen.events:
        said = event.model_dump()
        role = f" ({event.role})" if event.role else ""
        lines.append(f"event {event.type}  {_place(said['previous'])} -> {_place(said['current'])}{role}")
    if foreseen.siblings:
        lines.append(f"members that would be read too: {', '.join(foreseen.siblings)}")
    return "\n".join(f"{foreseen.connection_id}  {line}" for line in lines)


def finding_line(finding: RebuildFinding) -> str:
    """Return what a rebuild found as one line for a person."""
    subject = f"{finding.kind} {finding.event_id}" if finding.event_id else finding.kind
    end = "mended" if finding.is_mended else "can be mended" if finding.is_mendable else "cannot be mended"
    return f"{finding.connection_id}  {subject}: {_difference(finding)}  [{end}]"


def _difference(finding: RebuildFinding) -> str:
    values = finding.model_dump(mode="json")
    stored, folded = _short(values["stored"]), _short(values["folded"])
    if finding.kind == "history":
        return f"an {finding.field} is missing or spoilt: {stored}"
    if finding.field == "row":
        return f"{folded} is missing" if finding.stored is None else f"{stored} follows from no read"
    return f"{finding.field} is {stored}, should be {folded}"


def _short(value: object) -> str:
    text = _cell(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _place(value: str | dict[str, Any] | None) -> str:
    if value is None:
        return "(new)"
    if isinstance(value, str):
        return value
    reason = value["status_reason"]
    return f"{value['status']}/{reason}" if reason else str(value["status"])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def _console() -> Console:
    # What is piped must not be folded to a terminal's width.
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=1_000)
