"""Keys that are rotated under the real program: nothing is lost, nothing becomes unreadable, pushes go on."""

import json
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlmodel import col, func, select

from runtime.database import Database
from runtime.security.encryption import Encryption
from schemas.tables import WebhookRow
from service.ingest.webhook_insert import make_webhook_table
from tests.end_to_end.deployment import Deployment, deployed, stop_process
from tests.end_to_end.test_pushes import allow, got, subscribe
from tests.support.encryption_keys import KEY, OLD
from tests.support.polling import eventually
from tests.support.preloaded_program import PreloadedProcess
from tests.support.push_acceptance import assert_acceptable
from tests.support.scripted_consumer import HttpConsumer
from tests.support.webhook_factory import body, received_webhook

NEW_NAME = Encryption([KEY]).key_name


def listed(*keys: SecretStr) -> str:
    return ",".join(key.get_secret_value() for key in keys)


def bodies(deployment: Deployment, *keys: SecretStr) -> dict[str, Any]:
    """Open every stored body with these keys and no others; return what they say, by event id."""
    with closing(Database(deployment.environment["MELDWATCH_DATABASE_URL"])) as database, database.read() as session:
        found = session.exec(select(WebhookRow)).all()
    encryption = Encryption(keys)
    return {row.event_id: json.loads(encryption.decrypt_bytes(row.body, row.encrypted_with)) for row in found}


def change(deployment: Deployment, consumer: HttpConsumer) -> None:
    """Have a connection change, and wait until the consumer has taken the push of it, signed with its last secret."""
    before = len(got(consumer))
    world = deployment.meld.world
    deployment.meld.send_webhooks(world.complete(world.start().id))
    eventually(lambda: len(got(consumer)) == before + 1, 20, message=f"the push; {deployment.logs()}")
    assert_acceptable(consumer.pushes[-1].headers, consumer.pushes[-1].body, consumer.secrets[-1:])


class Fleet:
    """A web, a worker and a clock, which are restarted one after the other."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._running: dict[str, PreloadedProcess] = {}

    def restart(self, name: str, *keys: SecretStr) -> None:
        """Start a process with these keys, in place of the one before."""
        if name in self._running:
            assert stop_process(self._running[name], signal.SIGTERM) == 0
        self._deployment.environment["MELDWATCH_ENCRYPTION_KEYS"] = listed(*keys)
        self._running[name] = self._deployment.start(name)


def test_keys_rotate_without_downtime(many: Deployment, consumer: HttpConsumer) -> None:
    """In the documents' order, process by process: in every mixture webhooks come in and pushes go out and verify."""
    allow(many)
    fleet = Fleet(many)
    for name in ("web", "worker", "clock"):
        fleet.restart(name, OLD)
    many.wait_until_ready()
    subscribe(many, consumer)
    change(many, consumer)
    for keys in ((OLD, KEY), (KEY, OLD)):
        for name in ("web", "worker"):
            fleet.restart(name, *keys)
            many.wait_until_ready()
            change(many, consumer)
        # Sealed by a web that is ahead of its worker, or not.
        rotated = many.run("subscriptions", "rotate", "crm", "--json")
        consumer.secrets.append(json.loads(rotated.stdout)["secret"])
        change(many, consumer)

    rotated = many.run("keys", "rotate", "--json")
    for name in ("web", "worker"):
        fleet.restart(name, KEY)
        many.wait_until_ready()
        change(many, consumer)

    assert rotated.returncode == 0, rotated.stderr
    assert [set(json.loads(line)["keys"]) for line in rotated.stdout.splitlines()] == [{NEW_NAME}, set(), {NEW_NAME}]
    eventually(many.has_no_pending_webhooks, message="all webhooks processed")
    assert bodies(many, KEY).keys() == {webhook["event_id"] for webhook in many.webhooks()}
    assert {webhook["state"] for webhook in many.webhooks()} == {"processed"}
    assert got(consumer) == many.events()


def test_a_service_on_its_own_key_gets_another(embedded: Deployment, consumer: HttpConsumer) -> None:
    """``up`` with the key that it made: after a rotation the new key alone opens everything, and pushes verify."""
    allow(embedded)
    del embedded.environment["MELDWATCH_ENCRYPTION_KEYS"]
    process = embedded.start_all()[0]
    subscribe(embedded, consumer)
    change(embedded, consumer)
    (kept,) = embedded.folder.rglob("*.encryption-key")
    embedded.environment["MELDWATCH_ENCRYPTION_KEYS"] = f"{KEY.get_secret_value()},{kept.read_text().strip()}"
    stop_process(process, signal.SIGTERM)
    process = embedded.start_all()[0]
    change(embedded, consumer)

    rotated = embedded.run("keys", "rotate")
    kept.unlink()
    embedded.environment["MELDWATCH_ENCRYPTION_KEYS"] = KEY.get_secret_value()
    stop_process(process, signal.SIGTERM)
    embedded.start_all()
    change(embedded, consumer)

    assert rotated.returncode == 0, rotated.stderr
    stored = bodies(embedded, KEY)
    assert stored.keys() == {webhook["event_id"] for webhook in embedded.webhooks()}
    for event_id, said in stored.items():
        assert json.loads(embedded.run("webhooks", "show", event_id, "--body").stdout) == said
    assert got(consumer) == embedded.events()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_killed_rotation_is_gone_on_with(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """SIGKILL in the middle: everything opens, and the next one does what is left, beside webhooks that come in."""
    url = request.getfixturevalue(f"{kind}_url")
    raws = [body(f"c{number}", event_id=f"e{number}") for number in range(3_000)]
    with closing(Database(url)) as database, closing(make_webhook_table(database, Encryption([OLD]))) as table:
        for start in range(0, len(raws), 500):
            table.insert([received_webhook(raw) for raw in raws[start : start + 500]])

        def sealed_anew() -> int:
            with database.read() as session:
                return session.exec(select(func.count()).where(col(WebhookRow.encrypted_with) == NEW_NAME)).one()

        with deployed(tmp_path, url, "memory://", MELDWATCH_ENCRYPTION_KEYS=listed(KEY, OLD)) as deployment:
            rotation = deployment.start("keys", "rotate")
            eventually(sealed_anew, 20, message=f"a beginning; {deployment.logs()}")
            rotation.kill()
            rotation.wait()
            done = sealed_anew()
            table.insert([received_webhook(body("c", event_id="late"))])

            ended = deployment.run("keys", "rotate", "--json")

        assert 0 < done < len(raws)
        assert ended.returncode == 0, ended.stderr
        webhooks = json.loads(ended.stdout.splitlines()[0])
        assert webhooks["rotated"] == len(raws) + 1 - done
        assert sealed_anew() == len(raws) + 1
        assert {json.dumps(each) for each in bodies(deployment, KEY).values()} >= {
            json.dumps(json.loads(raw)) for raw in raws
        }
