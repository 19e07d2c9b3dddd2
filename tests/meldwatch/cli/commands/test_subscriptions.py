"""The commands ``subscriptions``, beside a running service."""

from tests.end_to_end.deployment import Deployment
from tests.meldwatch.cli.command_helpers import lines


def test_subscriptions_are_kept_from_the_command_line(served: Deployment) -> None:
    """Added with the key that ``up`` keeps, listed, shown, rotated, paused, resumed, removed, beside the service."""
    url = "https://1.1.1.1/events"
    kind = "connection.status_changed"
    (added,) = lines(served.run("subscriptions", "add", "crm", url, "--type", kind, "--json"))
    (listed,) = lines(served.run("subscriptions", "list", "--json"))
    (shown,) = lines(served.run("subscriptions", "show", added["id"], "--json"))
    (rotated,) = lines(served.run("subscriptions", "rotate", "crm", "--json"))
    said = [
        served.run("subscriptions", verb, "crm").stdout.strip() for verb in ("pause", "resume", "redrive", "remove")
    ]

    secret = added.pop("secret")
    assert (added["types"], added["state"]) == ([kind], "active")
    assert [listed, shown] == [added] * 2
    assert rotated["secret"] != secret
    assert said == ["crm is paused", "crm is active", "0 dead deliveries are tried again", "crm is removed"]
    assert served.run("subscriptions", "pause", "crm").returncode == 2
    (key,) = served.folder.rglob("*.encryption-key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().strip() not in served.logs()


def test_what_may_not_be_pushed_to_is_refused(served: Deployment) -> None:
    """With a word on what to do, and exit code 2."""
    refused = served.run("subscriptions", "add", "inside", "https://127.0.0.1/")
    odd = served.run("subscriptions", "add", "a\nb", "https://1.1.1.1/")

    assert (refused.returncode, "MELDWATCH_PUSH_ALLOWED_NETWORKS" in refused.stderr) == (2, True)
    assert (odd.returncode, "NAME" in odd.stderr) == (2, True)
