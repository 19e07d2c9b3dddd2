"""``meldwatch keys rotate``: encrypt stored data with the newest encryption key (key rotation)."""

import sys
import threading
from collections import Counter
from collections.abc import Sequence

import click

from meldwatch.cli import output
from meldwatch.cli.context import load_command_settings, open_database
from meldwatch.cli.exit_codes import ExitCode
from meldwatch.cli.operator_name import get_operator_name
from meldwatch.cli.options import json_option
from meldwatch.process.generated_secrets import load_stored_encryption_key
from runtime.security.encryption import Encryption
from schemas.key_rotation import KeyPlace, KeyRotationReport, KeyUse
from service.key_rotation import KeyRotation

COLUMNS = ("kind", "rotated", "unreadable")
USE_COLUMNS = ("key", "place", "uses")
NO_PROBLEM = (
    "Everything is encrypted with the newest key. When every process has that key first, the other keys can be removed."
)


@click.group()
def keys() -> None:
    """Manage the keys that encrypt stored data."""


@keys.command("rotate")
@json_option
def rotate(*, as_json: bool) -> None:
    """Encrypt webhook bodies and subscription secrets with the newest key.

    The newest key is the first of MELDWATCH_ENCRYPTION_KEYS. The command may run beside the service, whose processes
    must have that key before; see docs/operations.md. After an interruption, run it again. It prints which keys are in
    use, by their names. Exit code 1 means that a key other than the newest is still in use.
    """
    settings = load_stored_encryption_key(load_command_settings())
    encryption = Encryption(settings.encryption_keys)
    database = open_database(settings)
    seen = 0
    try:
        with output.show_progress("rows checked") as show:

            def progress(count: int) -> None:
                nonlocal seen
                seen += count
                show(seen)

            rotation = KeyRotation(database=database, encryption=encryption, wait=threading.Event().wait)
            reports = rotation.run(progress, who=get_operator_name())
    finally:
        database.close()
    output.print_items(reports, COLUMNS, as_json=as_json)
    if not as_json:
        click.echo()
        output.print_items(_count_key_uses(reports, encryption), USE_COLUMNS, as_json=False)
    problem = _describe_problem(reports)
    click.echo(problem or NO_PROBLEM, err=True)
    sys.exit(ExitCode.PROBLEM_FOUND if problem else ExitCode.OK)


def _count_key_uses(reports: Sequence[KeyRotationReport], encryption: Encryption) -> list[KeyUse]:
    """Return how often each key is in use: keys that are in use, and keys that are only set."""
    uses = Counter(dict.fromkeys(encryption.key_names, 0))
    for report in reports:
        uses.update(report.keys)
    return [KeyUse(key=name, place=_get_place(name, encryption), uses=count) for name, count in uses.items()]


def _get_place(name: str, encryption: Encryption) -> KeyPlace:
    if name == encryption.key_name:
        return "newest"
    return "older" if name in encryption.key_names else "not set"


def _describe_problem(reports: Sequence[KeyRotationReport]) -> str:
    """Return what is wrong and what to do about it; nothing if all is well."""
    unreadable = sum(report.unreadable for report in reports)
    others = sum(sum(report.keys.values()) - report.keys.get(report.newest, 0) for report in reports)
    problems = []
    if unreadable:
        problems.append(
            f"{unreadable} could not be decrypted: MELDWATCH_ENCRYPTION_KEYS lacks their key. Add it at the end of the"
            " list, and run this command again."
        )
    if others > unreadable:
        problems.append(
            f"{others - unreadable} were written meanwhile by a process that does not have the newest key first."
            " Restart it with the keys of this command, and run this command again."
        )
    return " ".join(problems)
