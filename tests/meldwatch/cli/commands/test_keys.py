"""The command ``keys rotate``."""

import json
from contextlib import closing

from sqlmodel import select

from runtime.database import Database
from runtime.security.encryption import Encryption
from schemas.tables import AuditRow
from tests.end_to_end.deployment import Deployment
from tests.meldwatch.cli.command_helpers import key_setting, show_body
from tests.meldwatch.cli.commands.conftest import RAW
from tests.support.encryption_keys import KEY, OLD

NEW_NAME, OLD_NAME = Encryption([KEY]).key_name, Encryption([OLD]).key_name


def test_a_rotation_prints_its_result(offline: Deployment, url: str) -> None:
    """A table with the keys in use; afterwards the new key alone decrypts everything. The rotation is audited."""
    rotated = offline.run("keys", "rotate", **key_setting(KEY, OLD))
    again = offline.run("keys", "rotate", "--json", **key_setting(KEY))

    assert (rotated.returncode, "the other keys can be removed" in rotated.stderr) == (0, True)
    lines = [line.split() for line in rotated.stdout.splitlines()]
    assert lines[:4] == [
        ["kind", "rotated", "unreadable"],
        ["webhook", "bodies", "2", "0"],
        ["rejection", "bodies", "0", "0"],
        ["subscription", "secrets", "1", "0"],
    ]
    assert lines[5:] == [["key", "place", "uses"], [NEW_NAME, "newest", "3"], [OLD_NAME, "older", "0"]]
    assert again.returncode == 0
    assert json.loads(again.stdout.splitlines()[0]) == {
        "kind": "webhook bodies", "rotated": 0, "unreadable": 0, "newest": NEW_NAME, "keys": {NEW_NAME: 2}
    }  # fmt: skip
    assert show_body(offline, "e1", KEY) == (0, RAW, "")
    with closing(Database(url)) as database, database.read() as session:
        acts = session.exec(select(AuditRow)).all()
    assert [(act.act, act.subject) for act in acts] == [("keys.rotated", NEW_NAME)] * 2
    assert all(act.who.startswith("cli:") for act in acts)


def test_a_rotation_without_an_old_key_reports_it(offline: Deployment) -> None:
    """Rows that it cannot decrypt are counted by key; the exit code is 1, and a line names the setting to correct."""
    ended = offline.run("keys", "rotate", **key_setting(KEY))
    none = offline.run("keys", "rotate", MELDWATCH_ENCRYPTION_KEYS="")

    assert ended.returncode == 1
    assert [OLD_NAME, "not", "set", "1"] in [line.split() for line in ended.stdout.splitlines()]
    assert ["unknown", "not", "set", "1"] in [line.split() for line in ended.stdout.splitlines()]
    assert "2 could not be decrypted: MELDWATCH_ENCRYPTION_KEYS lacks their key" in ended.stderr
    assert (none.returncode, "MELDWATCH_ENCRYPTION_KEYS is not set" in none.stderr) == (2, True)
    assert not any(key.get_secret_value() in ended.stdout + ended.stderr for key in (KEY, OLD))
