"""The commands that go over the past: rebuild, prune."""

import sys
import threading

import click

from meldwatch.cli import output
from meldwatch.cli.context import open_database, operator_name, settings_for
from meldwatch.process.factories import holder_name
from runtime.clock import utcnow
from runtime.errors import UsageError
from runtime.metrics import Metrics
from workers.history.rebuild import Rebuild
from workers.retention.prune import Prune


@click.command()
@click.option("--check", "is_check", is_flag=True, help="Compare, and write nothing.")
@click.option("--apply", "is_apply", is_flag=True, help="Mend what differs. Nothing is removed or renumbered.")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines instead of sentences.")
def rebuild(*, is_check: bool, is_apply: bool, as_json: bool) -> None:
    """Fold every read that saw something new again, and compare the mirror and the feed with what that gives.

    Prints each difference. Exits with 1 where --check found any, or where --apply left any. Reads nothing of Meld, and
    may run beside the service. Events that --apply puts into the feed say so: they bear a cause.rebuilt_at.
    """
    if is_check == is_apply:
        raise UsageError("Give --check to compare, or --apply to mend what differs.")
    database = open_database(settings_for())
    folded = found = mended = 0
    try:
        with output.progress("observations folded") as bar:

            def progress(count: int) -> None:
                nonlocal folded
                folded = count
                bar(count)

            past = Rebuild(database=database, clock=utcnow)
            findings = past.check(progress) if is_check else past.apply(progress, who=operator_name())
            for finding in findings:
                click.echo(finding.model_dump_json() if as_json else output.finding_line(finding))
                found, mended = found + 1, mended + finding.is_mended
    finally:
        database.close()
    click.echo(f"{folded} observations folded, {found} differences, {mended} mended", err=True)
    sys.exit(0 if found == mended else 1)


@click.command()
@click.option("--dry-run", "is_dry", is_flag=True, help="Count what would be removed, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def prune(*, is_dry: bool, as_json: bool) -> None:
    """Remove what is older than the settings of retention say and owed to nobody any more.

    Prints how many rows, by kind; of bodies, how many were emptied. May run beside the service, which does the same
    once a day. Interrupted, it has removed what it has; run it again.
    """
    settings = settings_for()
    database = open_database(settings)
    try:
        retention = Prune(
            database=database,
            settings=settings,
            holder=holder_name(),
            # Nobody sets it: Ctrl-C ends the command.
            wait=threading.Event().wait,
            metrics=Metrics(),
        )
        with output.progress("rows to remove" if is_dry else "rows removed") as progress:
            counts = retention.preview(progress) if is_dry else retention.run(progress, who=operator_name())
    finally:
        database.close()
    output.counts("rows to remove" if is_dry else "rows removed", counts, as_json=as_json)


COMMANDS = (rebuild, prune)
