"""``meldwatch prune``: delete expired rows now (retention)."""

import threading

import click

from meldwatch.cli import output
from meldwatch.cli.context import open_settings_and_database
from meldwatch.cli.operator_name import get_operator_name
from meldwatch.cli.options import json_object_option
from meldwatch.process.factories import make_lease_holder_name
from runtime.metrics import Metrics
from workers.retention.prune import Prune


@click.command()
@click.option("--dry-run", "is_dry", is_flag=True, help="Count what would be deleted, and write nothing.")
@json_object_option
def prune(*, is_dry: bool, as_json: bool) -> None:
    """Delete expired rows that nothing needs any more.

    The RETAIN_ settings say when rows expire. The command prints the number of deleted rows for each kind, and of
    emptied bodies. It may run beside the service, which does the same once a day. After an interruption, run it again.
    """
    title = "rows to delete" if is_dry else "rows deleted"
    with open_settings_and_database() as (settings, database):
        retention = Prune(
            database=database,
            settings=settings,
            holder=make_lease_holder_name(),
            # Nothing sets this event: Ctrl-C ends the command.
            wait=threading.Event().wait,
            metrics=Metrics(),
        )
        with output.show_progress(title) as progress:
            counts = retention.preview(progress) if is_dry else retention.run(progress, who=get_operator_name())
    output.print_counts(title, counts, as_json=as_json)
