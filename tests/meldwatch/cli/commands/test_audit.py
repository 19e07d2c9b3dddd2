"""The command ``audit list``."""

import os
import pwd

from tests.end_to_end.deployment import Deployment
from tests.meldwatch.cli.command_helpers import read_json_lines

ME = f"cli:{pwd.getpwuid(os.geteuid()).pw_name}"


def test_commands_are_audited_with_the_system_user(served: Deployment) -> None:
    """The operator is the user of the process, whatever the environment says; the API has the same entries."""
    (id_,) = served.mirror()
    for command in (
        ("connections", "refresh", id_),
        ("reconcile",),
        ("rebuild", "--apply"),
        ("subscriptions", "add", "crm", "https://1.1.1.1/events"),
        ("subscriptions", "pause", "crm"),
        ("subscriptions", "resume", "nobody"),
        ("subscriptions", "remove", "crm"),
    ):
        served.run(*command, USER="mallory", LOGNAME="mallory")

    found = read_json_lines(served.run("audit", "list", "--json"))
    (of_connection,) = read_json_lines(served.run("audit", "list", "--connection", id_, "--json"))
    text = served.run("audit", "list", "--act", "subscription.paused")

    assert [act["act"] for act in reversed(found)] == [
        "connection.refreshed",
        "reconcile.begun",
        "subscription.created",
        "subscription.paused",
        "subscription.removed",
    ]
    assert {act["who"] for act in found} == {ME}
    assert found == served.get("/api/audit")["acts"]
    assert of_connection == found[-1]
    assert [line.split()[1:3] for line in text.stdout.splitlines()[1:]] == [[ME, "subscription.paused"]]


def test_a_page_prints_its_cursor(served: Deployment) -> None:
    """The next page begins at the cursor."""
    (id_,) = served.mirror()
    for _ in range(2):
        served.run("connections", "refresh", id_)

    first = served.run("audit", "list", "--limit", "1", "--json")
    second = served.run("audit", "list", "--after", first.stderr.split()[-1], "--json")

    assert [act["id"] for act in read_json_lines(first) + read_json_lines(second)] == [2, 1]
    assert second.stderr == ""
