"""The commands ``subscriptions``, beside a running service."""

from tests.end_to_end.deployment import Deployment
from tests.meldwatch.cli.command_helpers import read_json_lines


def test_subscriptions_are_managed_beside_the_service(served: Deployment) -> None:
    """Add, list, show, rotate, pause, resume, redrive, remove; secrets are encrypted with the key that ``up`` made."""
    url = "https://1.1.1.1/events"
    type_ = "connection.status_changed"
    (added,) = read_json_lines(served.run("subscriptions", "add", "crm", url, "--type", type_, "--json"))
    (listed,) = read_json_lines(served.run("subscriptions", "list", "--json"))
    (shown,) = read_json_lines(served.run("subscriptions", "show", added["id"], "--json"))
    (rotated,) = read_json_lines(served.run("subscriptions", "rotate", "crm", "--json"))
    messages = [
        served.run("subscriptions", verb, "crm").stdout.strip() for verb in ("pause", "resume", "redrive", "remove")
    ]

    secret = added.pop("secret")
    assert (added["types"], added["state"]) == ([type_], "active")
    assert [listed, shown] == [added] * 2
    assert rotated["secret"] != secret
    assert messages == ["crm is paused", "crm is active", "0 dead deliveries are tried again", "crm is removed"]
    assert served.run("subscriptions", "pause", "crm").returncode == 2
    (key,) = served.folder.rglob("*.encryption-key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().strip() not in served.logs()


def test_an_invalid_subscription_is_refused(served: Deployment) -> None:
    """Exit code 2, with the setting or the argument to correct."""
    refused = served.run("subscriptions", "add", "inside", "https://127.0.0.1/")
    invalid_name = served.run("subscriptions", "add", "a\nb", "https://1.1.1.1/")

    assert (refused.returncode, "MELDWATCH_PUSH_ALLOWED_NETWORKS" in refused.stderr) == (2, True)
    assert (invalid_name.returncode, "NAME" in invalid_name.stderr) == (2, True)
