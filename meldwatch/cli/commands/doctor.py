"""``meldwatch doctor``: check that everything that the service needs is there."""

import sys

import click

from meldwatch.cli.context import load_command_settings
from meldwatch.cli.doctor_checks import run_checks
from meldwatch.cli.exit_codes import ExitCode


@click.command()
def doctor() -> None:
    """Check settings, database, broker, Meld's credentials and the webhook URLs.

    Each failed check says what to do.
    """
    findings = run_checks(load_command_settings())
    for finding in findings:
        click.echo(f"{'ok  ' if finding.is_ok else 'FAIL'}  {finding.check:12} {finding.text}")
    if any(finding.check == "settings" and not finding.is_ok for finding in findings):
        sys.exit(ExitCode.USAGE_ERROR)
    if any(finding.is_out_of_reach for finding in findings):
        sys.exit(ExitCode.UNREACHABLE)
    sys.exit(ExitCode.OK if all(finding.is_ok for finding in findings) else ExitCode.PROBLEM_FOUND)
