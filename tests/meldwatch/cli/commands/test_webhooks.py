"""The command ``webhooks show --body``: the raw body, decrypted."""

import json
from contextlib import closing
from pathlib import Path

from runtime.database import Database
from runtime.security.encryption import Encryption
from tests.end_to_end.deployment import Deployment, deployed
from tests.meldwatch.cli.command_helpers import show_body
from tests.meldwatch.cli.commands.conftest import RAW
from tests.support import row_factory
from tests.support.encryption_keys import KEY, OLD

OLD_NAME = Encryption([OLD]).key_name


def test_a_body_is_printed_unchanged(offline: Deployment) -> None:
    """Byte for byte; without the key, one line names the key that is missing."""
    junk = offline.run("webhooks", "list", "--json").stdout.splitlines()[1]
    with_key, in_clear = show_body(offline, "e1", KEY, OLD), show_body(offline, json.loads(junk)["event_id"])
    without, wrong, unknown = show_body(offline, "e1"), show_body(offline, "e1", KEY), show_body(offline, "e2", KEY)
    both = offline.run("webhooks", "show", "e1", "--body", "--json")

    assert (with_key, in_clear) == ((0, RAW, ""), (0, b"junk", ""))
    for code, printed, message in (without, wrong):
        assert (code, printed, message.count("\n")) == (2, b"", 1)
        assert OLD_NAME in message
    assert "MELDWATCH_ENCRYPTION_KEYS is not set" in without[2]
    assert "add it at the end of the list" in wrong[2]
    assert (unknown[0], "No webhook 'e2'" in unknown[2]) == (2, True)
    assert (both.returncode, "--body or --json" in both.stderr) == (2, True)


def test_a_removed_body_is_reported(url: str, tmp_path: Path) -> None:
    """The error has the time of its removal."""
    with closing(Database(url)) as database:
        row_factory.store(
            database, row_factory.webhook("e1", body=b"", encrypted_with="x", emptied_at=row_factory.TIME)
        )
    with deployed(tmp_path, url, "memory://") as deployment:
        code, printed, message = show_body(deployment, "e1")

    assert (code, printed) == (2, b"")
    assert "The body of 'e1' was removed at 2026-01-02T03:04:05Z." in message
