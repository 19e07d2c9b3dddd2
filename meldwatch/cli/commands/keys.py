"""The command about the keys that encrypt what is stored."""

import sys
import threading
from collections import Counter
from collections.abc import Sequence

import click

from meldwatch.cli import output
from meldwatch.cli.context import open_database, operator_name, settings_for
from meldwatch.cli.options import json_option
from meldwatch.process.generated_secrets import with_kept_encryption_key
from runtime.security.encryption import Encryption
from schemas.key_rotation import KeyRotationReport, KeyUse, Place
from service.key_rotation import KeyRotation

COLUMNS = ("kind", "rotated", "unreadable")
FINE = "everything is encrypted with the newest key; once every process has it in front, the others may go"
USE_COLUMNS = ("key", "place", "uses")


@click.group()
def keys() -> None:
    """The keys that encrypt what is stored."""


@keys.command("rotate")
@json_option
def rotate(*, as_json: bool) -> None:
    """Encrypt with the newest key what is stored in clear or with another.

    That are webhook bodies, and secrets of subscriptions; the newest key is the first of MELDWATCH_ENCRYPTION_KEYS.
    May run beside the service, whose processes must know that key before, see docs/operations.md. One that is
    interrupted is gone on with. Prints which keys are in use now, by their names, and exits with 1 where that is any
    but the newest.
    """
    settings = with_kept_encryption_key(settings_for())
    vault = Encryption(settings.encryption_keys)
    database = open_database(settings)
    seen = 0
    try:
        with output.progress("rows looked at") as bar:

            def progress(count: int) -> None:
                nonlocal seen
                seen += count
                bar(seen)

            rotate = KeyRotation(database=database, vault=vault, wait=threading.Event().wait)
            rotations = rotate.run(progress, who=operator_name())
    finally:
        database.close()
    output.rows(rotations, COLUMNS, as_json=as_json)
    if not as_json:
        click.echo()
        output.rows(_uses(rotations, vault), USE_COLUMNS, as_json=False)
    words = _words(rotations)
    click.echo(words or FINE, err=True)
    sys.exit(1 if words else 0)


def _uses(rotations: Sequence[KeyRotationReport], vault: Encryption) -> list[KeyUse]:
    """Return the keys in use, with those that are set and not in use."""
    uses = Counter(dict.fromkeys(vault.key_names, 0))
    for rotation in rotations:
        uses.update(rotation.keys)
    return [KeyUse(key=name, place=_place(name, vault), uses=count) for name, count in uses.items()]


def _place(name: str, vault: Encryption) -> Place:
    if name == vault.key_name:
        return "newest"
    return "older" if name in vault.key_names else "not set"


def _words(rotations: Sequence[KeyRotationReport]) -> str:
    """Return what is wrong, and what to do; nothing where nothing is."""
    unreadable = sum(rotation.unreadable for rotation in rotations)
    others = sum(sum(rotation.keys.values()) - rotation.keys.get(rotation.newest, 0) for rotation in rotations)
    words = []
    if unreadable:
        words.append(
            f"{unreadable} could not be decrypted: MELDWATCH_ENCRYPTION_KEYS lacks their key. Add it at the end of the"
            " list, and run this again."
        )
    if others > unreadable:
        words.append(
            f"{others - unreadable} came meanwhile from a process that has not the newest key in front. Restart it with"
            " the keys of this command, and run this again."
        )
    return " ".join(words)


COMMANDS = (keys,)
