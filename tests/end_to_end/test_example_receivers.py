"""The example receivers of the documentation, with the real program."""

import json
from pathlib import Path

from tests.end_to_end.deployment import Deployment, free_port
from tests.examples.receiver_process import ReceiverProcess
from tests.support.encryption_keys import KEY
from tests.support.polling import eventually


def test_a_receiver_stores_each_event_once_during_a_secret_rotation(
    embedded: Deployment, receiver: list[str | Path], tmp_path: Path
) -> None:
    """With the old secret before and during the rotation, then with the new secret."""
    embedded.environment["MELDWATCH_PUSH_ALLOWED_NETWORKS"] = "127.0.0.0/8"
    embedded.environment["MELDWATCH_ENCRYPTION_KEYS"] = KEY.get_secret_value()
    embedded.start_all()
    folder, port = tmp_path / "receiver", free_port()
    folder.mkdir()
    secret = run_and_parse_secret(embedded, "add", "crm", f"http://127.0.0.1:{port}/")
    meld = embedded.meld

    with ReceiverProcess(receiver, folder, secret, port=port) as first:
        connection = meld.world.add()
        embedded.send_webhook(connection.id)
        eventually(lambda: len(first.stored) == 1, 20, message=f"the first event; {embedded.logs()}")
        rotated = run_and_parse_secret(embedded, "rotate", "crm")
        meld.send_webhooks(meld.world.break_connection(connection.id))
        eventually(lambda: len(first.stored) == 2, 20, message=f"the second event; {embedded.logs()}")
    with ReceiverProcess(receiver, folder, rotated, port=port) as second:
        meld.send_webhooks(meld.world.heal(connection.id))
        eventually(lambda: len(second.stored) == 1, 20, message=f"the third event; {embedded.logs()}")

    assert first.stored + second.stored == [(f"{number:08}", connection.id) for number in (1, 2, 3)]


def run_and_parse_secret(deployment: Deployment, *arguments: str) -> str:
    """Run a ``subscriptions`` command, and return the secret that it prints."""
    ended = deployment.run("subscriptions", *arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return str(json.loads(ended.stdout)["secret"])
