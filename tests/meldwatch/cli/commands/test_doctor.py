"""The command ``doctor``: each check, and its exit code."""

from pathlib import Path

import pytest

from tests.end_to_end.deployment import KEY, SECRET, TOKEN, Deployment, deployed
from tests.meldwatch.cli.command_helpers import key_setting
from tests.support import encryption_keys


def test_a_sound_deployment_passes_all_checks(served: Deployment) -> None:
    """``doctor`` checks database, broker, Meld and settings, prints no secret, and exits with 0."""
    ended = served.run("doctor")

    assert ended.returncode == 0, ended.stdout
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["ok"] * 6
    assert not any(secret in ended.stdout + ended.stderr for secret in (KEY, SECRET, TOKEN))


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({"MELDWATCH_MELD_API_KEY": "another"}, 1, "the key does not fit"),
        ({"MELDWATCH_MELD_API_URL": "http://127.0.0.1:1"}, 3, "http://127.0.0.1:1"),
        ({"MELDWATCH_BROKER_URL": "redis://127.0.0.1:1"}, 3, "The broker does not answer"),
        ({"MELDWATCH_BROKER_URL": "amqp://127.0.0.1:1"}, 3, "The broker does not answer"),
        ({"MELDWATCH_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, 3, "The database does not answer"),
        ({"MELDWATCH_WEBHOOK_URLS": "https://example.com/hook"}, 1, "does not end with /webhooks/meld"),
        ({"MELDWATCH_WEBHOOK_URLS": "http://example.com/webhooks/meld"}, 1, "is not https"),
        ({"MELDWATCH_WEBHOOK_SECRETS": ""}, 2, "MELDWATCH_WEBHOOK_SECRETS"),
        ({}, 1, "FAIL  encryption   set ENCRYPTION_KEYS: without a key webhook bodies are stored in clear"),
    ],
    ids=["key", "meld", "redis", "rabbitmq", "database", "path", "scheme", "secret", "encryption"],
)
def test_each_fault_is_reported(
    sqlite_url: str, tmp_path: Path, settings: dict[str, str], code: int, message: str
) -> None:
    """Each fault has its exit code and a line with its fix, without a traceback."""
    with deployed(tmp_path, sqlite_url, "memory://") as deployment:
        ended = deployment.run("doctor", **settings)

    assert (ended.returncode, message in ended.stdout) == (code, True), ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_missing_key_is_reported(offline: Deployment) -> None:
    """A key that was removed too early is reported before the first push fails."""
    with_both_keys = offline.run("doctor", **key_setting(encryption_keys.KEY, encryption_keys.OLD))
    with_new_key = offline.run("doctor", **key_setting(encryption_keys.KEY))

    assert "ok    encryption" in with_both_keys.stdout
    assert (
        with_new_key.returncode,
        "FAIL  encryption" in with_new_key.stdout,
        "lacks the key" in with_new_key.stdout,
    ) == (1, True, True)
