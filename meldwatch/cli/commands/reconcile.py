"""``meldwatch reconcile``: compare Meld's list of connections with the mirror, and repair the drift."""

import json
import sys
import threading

import click

from meldwatch.cli import output
from meldwatch.cli.context import make_worker_notifier, open_settings_and_database
from meldwatch.cli.exit_codes import ExitCode
from meldwatch.cli.operator_name import get_operator_name
from meldwatch.cli.options import json_object_option
from meldwatch.process.factories import make_lease_holder_name, make_reconcile
from service.reconcile.report import ReconcileReport


@click.command()
@json_object_option
def reconcile(*, as_json: bool) -> None:
    """Compare Meld's whole list with the mirror, and repair the drift.

    The command prints the drift by kind. Exit code 1 means that there was any; expect it on the first run, which fills
    a new mirror from Meld's list. After an interruption, the next run continues.
    """
    with open_settings_and_database("meld_api_key") as (settings, database):
        runner = make_reconcile(
            settings,
            database,
            call=make_worker_notifier(settings, database),
            holder=make_lease_holder_name(),
            # Nothing sets this event: Ctrl-C ends the command, and the next run continues.
            wait=threading.Event().wait,
        )
        with output.show_progress("connections listed") as progress:
            report = runner.run(lambda run: progress(run.listed), who=get_operator_name())
    _print_report(report, as_json=as_json)
    sys.exit(ExitCode.OK if report.is_clean else ExitCode.PROBLEM_FOUND)


def _print_report(report: ReconcileReport, *, as_json: bool) -> None:
    if as_json:
        totals = {"pages": report.pages, "listed": report.listed, "unreadable": report.unreadable}
        click.echo(json.dumps({**totals, **report.drift, "examples": report.examples}))
        return
    click.echo(f"{report.listed} connections on {report.pages} pages, and {report.unreadable} that could not be read")
    output.print_table(
        ("drift", "count", "examples"),
        ((kind, str(count), ", ".join(report.examples.get(kind, []))) for kind, count in report.drift.items()),
    )
