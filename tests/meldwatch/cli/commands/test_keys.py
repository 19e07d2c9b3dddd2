"""Keys and what they encrypt, from the command line."""

import json
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlmodel import select

from runtime.database import Database
from runtime.security.encryption import Encryption
from schemas.tables import AuditRow, WebhookRow
from service.ingest.webhook_insert import make_webhook_table
from tests.end_to_end.deployment import Deployment, deployed, end
from tests.support import row_factory
from tests.support.encryption_keys import KEY, OLD
from tests.support.polling import eventually
from tests.support.scripted_consumer import SECRET, subscribe
from tests.support.webhook_factory import received_webhook

RAW = b'{"eventId":"e1", "eventType":"T",  "payload":{"word":"gr\xfc\xdfe"}}\n\n'
NEW_NAME, OLD_NAME = Encryption([KEY]).key_name, Encryption([OLD]).key_name


def listed(*keys: SecretStr) -> dict[str, str]:
    return {"MELDWATCH_ENCRYPTION_KEYS": ",".join(key.get_secret_value() for key in keys)}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """A fresh database, of each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def offline(url: str, tmp_path: Path) -> Iterator[Deployment]:
    """A set-up of which nothing runs: one webhook under an older key, one in clear, a subscription, a handler's."""
    with closing(Database(url)) as database:
        for encryption, raw in ((Encryption([OLD]), RAW), (Encryption([]), b"junk")):
            with closing(make_webhook_table(database, encryption)) as table:
                table.insert([received_webhook(raw)])
        subscribe(database, secret=Encryption([OLD]).encrypt(SECRET))
        subscribe(database, "handler", url="python:ours.handle", secret="")
    with deployed(tmp_path, url, "memory://") as deployment:
        yield deployment


def body_of(deployment: Deployment, event_id: str, *keys: SecretStr) -> tuple[int, bytes, str]:
    """Return exit code, output as bytes, and what was said, of ``webhooks show --body``."""
    ended = deployment.run_for_bytes("webhooks", "show", event_id, "--body", **listed(*keys))
    return ended.returncode, ended.stdout, ended.stderr.decode()


def test_a_body_is_printed_as_it_came(offline: Deployment) -> None:
    """Byte for byte, with the key; without one, or with another, a line says which is missing."""
    junk = offline.run("webhooks", "list", "--json").stdout.splitlines()[1]
    with_key, in_clear = body_of(offline, "e1", KEY, OLD), body_of(offline, json.loads(junk)["event_id"])
    without, wrong, unknown = body_of(offline, "e1"), body_of(offline, "e1", KEY), body_of(offline, "e2", KEY)
    both = offline.run("webhooks", "show", "e1", "--body", "--json")

    assert (with_key, in_clear) == ((0, RAW, ""), (0, b"junk", ""))
    for code, printed, said in (without, wrong):
        assert (code, printed, said.count("\n")) == (2, b"", 1)
        assert OLD_NAME in said
    assert "MELDWATCH_ENCRYPTION_KEYS is not set" in without[2]
    assert "add it at the end of the list" in wrong[2]
    assert (unknown[0], "No webhook 'e2'" in unknown[2]) == (2, True)
    assert (both.returncode, "--body or --json" in both.stderr) == (2, True)


def test_a_body_that_was_removed_is_said_to_be(url: str, tmp_path: Path) -> None:
    """With the time of its removal, instead of nothing at all."""
    with closing(Database(url)) as database:
        row_factory.store(
            database, row_factory.webhook("e1", body=b"", encrypted_with="x", emptied_at=row_factory.TIME)
        )
    with deployed(tmp_path, url, "memory://") as deployment:
        code, printed, said = body_of(deployment, "e1")

    assert (code, printed) == (2, b"")
    assert "The body of 'e1' was removed at 2026-01-02T03:04:05Z." in said


def test_a_rotation_says_what_it_came_to(offline: Deployment, url: str) -> None:
    """A table for people, with the keys in use; after it the new key alone opens everything. The act is noted."""
    rotated = offline.run("keys", "rotate", **listed(KEY, OLD))
    again = offline.run("keys", "rotate", "--json", **listed(KEY))

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
    assert body_of(offline, "e1", KEY) == (0, RAW, "")
    with closing(Database(url)) as database, database.read() as session:
        acts = session.exec(select(AuditRow)).all()
    assert [(act.act, act.subject) for act in acts] == [("keys.rotated", NEW_NAME)] * 2
    assert all(act.who.startswith("cli:") for act in acts)


def test_a_rotation_that_lacks_a_key_says_so(offline: Deployment) -> None:
    """What it cannot open is counted under the key's name, the exit code is 1, and the line says what to do."""
    ended = offline.run("keys", "rotate", **listed(KEY))
    none = offline.run("keys", "rotate", MELDWATCH_ENCRYPTION_KEYS="")

    assert ended.returncode == 1
    assert [OLD_NAME, "not", "set", "1"] in [line.split() for line in ended.stdout.splitlines()]
    assert ["unknown", "not", "set", "1"] in [line.split() for line in ended.stdout.splitlines()]
    assert "2 could not be decrypted: MELDWATCH_ENCRYPTION_KEYS lacks their key" in ended.stderr
    assert (none.returncode, "MELDWATCH_ENCRYPTION_KEYS is not set" in none.stderr) == (2, True)
    assert not any(key.get_secret_value() in ended.stdout + ended.stderr for key in (KEY, OLD))


def test_the_doctor_misses_a_key(offline: Deployment) -> None:
    """A key that is gone too early is found before the first push fails."""
    well = offline.run("doctor", **listed(KEY, OLD))
    ill = offline.run("doctor", **listed(KEY))

    assert "ok    encryption" in well.stdout
    assert (ill.returncode, "FAIL  encryption" in ill.stdout, "lacks the key" in ill.stdout) == (1, True, True)


def test_up_seals_what_comes_with_the_key_that_it_keeps(url: str, tmp_path: Path) -> None:
    """And the commands beside it find that key."""
    with deployed(tmp_path, url, "memory://") as deployment:
        deployment.start("up")
        deployment.wait_until_ready()
        deployment.run("trigger", "BANK_LINKING_ACCOUNTS_UPDATED", "--connection", "c1", "--event-id", "e1")
        shown = deployment.run("webhooks", "show", "e1", "--body")
        rotated = deployment.run("keys", "rotate")
    with closing(Database(url)) as database, database.read() as session:
        (row,) = session.exec(select(WebhookRow)).all()

    assert json.loads(shown.stdout)["payload"]["connectionId"] == "c1"
    assert (rotated.returncode, rotated.stdout.split()[-2:]) == (0, ["newest", "1"])
    assert row.encrypted_with is not None
    assert b"connectionId" not in row.body


def test_a_web_without_a_key_says_that_bodies_are_in_clear(postgres_url: str, valkey_url: str, tmp_path: Path) -> None:
    """It warns when it starts; with a key it does not."""
    with deployed(tmp_path, postgres_url, valkey_url) as many:
        for keys in ((), (KEY,)):
            many.environment.update(listed(*keys))
            process = many.start("web")
            eventually(lambda: many.status("/healthz") == 200, 20, message=many.logs())
            end(process, signal.SIGTERM)

    warned = ["webhook bodies are stored in clear" in path.read_text() for path in sorted(tmp_path.glob("*.log"))]
    assert warned == [True, False]
