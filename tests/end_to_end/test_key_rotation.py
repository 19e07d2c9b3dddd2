"""Key rotation with the real program: nothing is lost or unreadable, and pushes continue."""

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
from tests.end_to_end.test_pushes import allow_local_pushes, list_received_events, subscribe
from tests.support.encryption_keys import KEY, OLD
from tests.support.polling import eventually
from tests.support.processes.preloaded_program import PreloadedProcess
from tests.support.push_acceptance import assert_acceptable
from tests.support.scripted_consumer import HttpConsumer
from tests.support.webhook_factory import body, received_webhook

NEW_NAME = Encryption([KEY]).key_name


def join_keys(*keys: SecretStr) -> str:
    return ",".join(key.get_secret_value() for key in keys)


def decrypt_bodies(deployment: Deployment, *keys: SecretStr) -> dict[str, Any]:
    """Decrypt every stored body with these keys; return the webhooks' documents, by event id."""
    with closing(Database(deployment.environment["MELDWATCH_DATABASE_URL"])) as database, database.read() as session:
        found = session.exec(select(WebhookRow)).all()
    encryption = Encryption(keys)
    return {row.event_id: json.loads(encryption.decrypt_bytes(row.body, row.encrypted_with)) for row in found}


def change_connection(deployment: Deployment, consumer: HttpConsumer) -> None:
    """Change a connection, and wait until the consumer acknowledges the push, signed with its newest secret."""
    before = len(list_received_events(consumer))
    world = deployment.meld.world
    deployment.meld.send_webhooks(world.complete(world.start().id))
    eventually(lambda: len(list_received_events(consumer)) == before + 1, 20, message=f"the push; {deployment.logs()}")
    assert_acceptable(consumer.pushes[-1].headers, consumer.pushes[-1].body, consumer.secrets[-1:])


class RollingProcesses:
    """The processes ``web``, ``worker`` and ``clock``, for a rolling restart."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._running: dict[str, PreloadedProcess] = {}

    def restart(self, name: str, *keys: SecretStr) -> None:
        """Replace a process by one with these keys."""
        if name in self._running:
            assert stop_process(self._running[name], signal.SIGTERM) == 0
        self._deployment.environment["MELDWATCH_ENCRYPTION_KEYS"] = join_keys(*keys)
        self._running[name] = self._deployment.start(name)


def test_keys_rotate_without_downtime(multi_process: Deployment, consumer: HttpConsumer) -> None:
    """In the documented order, one process at a time: at each step webhooks are stored and pushes verify."""
    allow_local_pushes(multi_process)
    processes = RollingProcesses(multi_process)
    for name in ("web", "worker", "clock"):
        processes.restart(name, OLD)
    multi_process.wait_until_ready()
    subscribe(multi_process, consumer)
    change_connection(multi_process, consumer)
    for keys in ((OLD, KEY), (KEY, OLD)):
        for name in ("web", "worker"):
            processes.restart(name, *keys)
            multi_process.wait_until_ready()
            change_connection(multi_process, consumer)
        # The command encrypts the new secret with the first key of this step.
        rotated = multi_process.run("subscriptions", "rotate", "crm", "--json")
        consumer.secrets.append(json.loads(rotated.stdout)["secret"])
        change_connection(multi_process, consumer)

    rotated = multi_process.run("keys", "rotate", "--json")
    for name in ("web", "worker"):
        processes.restart(name, KEY)
        multi_process.wait_until_ready()
        change_connection(multi_process, consumer)

    assert rotated.returncode == 0, rotated.stderr
    assert [set(json.loads(line)["keys"]) for line in rotated.stdout.splitlines()] == [{NEW_NAME}, set(), {NEW_NAME}]
    eventually(multi_process.has_no_pending_webhooks, message="processing of all webhooks")
    assert decrypt_bodies(multi_process, KEY).keys() == {webhook["event_id"] for webhook in multi_process.webhooks()}
    assert {webhook["state"] for webhook in multi_process.webhooks()} == {"processed"}
    assert list_received_events(consumer) == multi_process.events()


def test_a_generated_key_can_be_replaced(embedded: Deployment, consumer: HttpConsumer) -> None:
    """``up`` with a generated key: after a rotation the new key alone decrypts everything, and pushes verify."""
    allow_local_pushes(embedded)
    del embedded.environment["MELDWATCH_ENCRYPTION_KEYS"]
    process = embedded.start_all()[0]
    subscribe(embedded, consumer)
    change_connection(embedded, consumer)
    (key_file,) = embedded.folder.rglob("*.encryption-key")
    embedded.environment["MELDWATCH_ENCRYPTION_KEYS"] = f"{KEY.get_secret_value()},{key_file.read_text().strip()}"
    stop_process(process, signal.SIGTERM)
    process = embedded.start_all()[0]
    change_connection(embedded, consumer)

    rotated = embedded.run("keys", "rotate")
    key_file.unlink()
    embedded.environment["MELDWATCH_ENCRYPTION_KEYS"] = KEY.get_secret_value()
    stop_process(process, signal.SIGTERM)
    embedded.start_all()
    change_connection(embedded, consumer)

    assert rotated.returncode == 0, rotated.stderr
    stored = decrypt_bodies(embedded, KEY)
    assert stored.keys() == {webhook["event_id"] for webhook in embedded.webhooks()}
    for event_id, document in stored.items():
        assert json.loads(embedded.run("webhooks", "show", event_id, "--body").stdout) == document
    assert list_received_events(consumer) == embedded.events()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_killed_rotation_is_completed_by_the_next(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """SIGKILL midway: the next rotation encrypts the remaining bodies, including that of a webhook stored meanwhile."""
    url = request.getfixturevalue(f"{kind}_url")
    raws = [body(f"c{number}", event_id=f"e{number}") for number in range(3_000)]
    with closing(Database(url)) as database, closing(make_webhook_table(database, Encryption([OLD]))) as table:
        for start in range(0, len(raws), 500):
            table.insert([received_webhook(raw) for raw in raws[start : start + 500]])

        def count_reencrypted() -> int:
            with database.read() as session:
                return session.exec(select(func.count()).where(col(WebhookRow.encrypted_with) == NEW_NAME)).one()

        with deployed(tmp_path, url, "memory://", MELDWATCH_ENCRYPTION_KEYS=join_keys(KEY, OLD)) as deployment:
            rotation = deployment.start("keys", "rotate")
            eventually(count_reencrypted, 20, message=f"the first encrypted bodies; {deployment.logs()}")
            rotation.kill()
            rotation.wait()
            done = count_reencrypted()
            table.insert([received_webhook(body("c", event_id="late"))])

            ended = deployment.run("keys", "rotate", "--json")

        assert 0 < done < len(raws)
        assert ended.returncode == 0, ended.stderr
        webhooks = json.loads(ended.stdout.splitlines()[0])
        assert webhooks["rotated"] == len(raws) + 1 - done
        assert count_reencrypted() == len(raws) + 1
        assert {json.dumps(each) for each in decrypt_bodies(deployment, KEY).values()} >= {
            json.dumps(json.loads(raw)) for raw in raws
        }
