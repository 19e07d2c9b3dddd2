"""``meldwatch rebuild``: project the stored reads again, and compare or repair the mirror and the feed."""

import sys

import click

from meldwatch.cli import output
from meldwatch.cli.context import open_settings_and_database
from meldwatch.cli.exit_codes import ExitCode
from meldwatch.cli.item_lines import format_rebuild_finding
from meldwatch.cli.operator_name import get_operator_name
from runtime.clock import utcnow
from runtime.errors import UsageError
from workers.history.rebuild import Rebuild


@click.command()
@click.option("--check", "is_check", is_flag=True, help="Compare, and write nothing.")
@click.option("--apply", "is_apply", is_flag=True, help="Repair the differences. Nothing is deleted or renumbered.")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines instead of sentences.")
def rebuild(*, is_check: bool, is_apply: bool, as_json: bool) -> None:
    """Rebuild the mirror and the feed from the stored reads, and compare.

    The command projects every stored read that changed something, and prints each difference. Exit code 1 means that
    --check found a difference, or that --apply left one. It does not call Meld, and may run beside the service. Events
    that --apply adds to the feed have a cause.rebuilt_at.
    """
    if is_check == is_apply:
        raise UsageError("Give --check to compare, or --apply to repair the differences.")
    projected = found = repaired = 0
    with open_settings_and_database() as (_settings, database), output.show_progress("reads projected") as show:

        def progress(count: int) -> None:
            nonlocal projected
            projected = count
            show(count)

        job = Rebuild(database=database, clock=utcnow)
        findings = job.check(progress) if is_check else job.repair(progress, who=get_operator_name())
        for finding in findings:
            click.echo(finding.model_dump_json() if as_json else format_rebuild_finding(finding))
            found, repaired = found + 1, repaired + finding.is_mended
    click.echo(f"{projected} reads projected, {found} differences, {repaired} repaired", err=True)
    sys.exit(ExitCode.OK if found == repaired else ExitCode.PROBLEM_FOUND)
