"""What operators did, as the commands tell it."""

import os
import pwd

from tests.end_to_end.deployment import Deployment
from tests.meldwatch.cli.command_helpers import lines

ME = f"cli:{pwd.getpwuid(os.geteuid()).pw_name}"


def test_what_commands_do_is_noted_with_who_ran_them(served: Deployment) -> None:
    """Whatever the environment says of the user; the API tells the same acts."""
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

    found = lines(served.run("audit", "list", "--json"))
    (about,) = lines(served.run("audit", "list", "--connection", id_, "--json"))
    people = served.run("audit", "list", "--act", "subscription.paused")

    assert [act["act"] for act in reversed(found)] == [
        "connection.refreshed",
        "reconcile.begun",
        "subscription.created",
        "subscription.paused",
        "subscription.removed",
    ]
    assert {act["who"] for act in found} == {ME}
    assert found == served.get("/api/audit")["acts"]
    assert about == found[-1]
    assert [line.split()[1:3] for line in people.stdout.splitlines()[1:]] == [[ME, "subscription.paused"]]


def test_a_page_says_how_to_go_on(served: Deployment) -> None:
    """With the cursor, and the next page goes on with what was done before."""
    (id_,) = served.mirror()
    for _ in range(2):
        served.run("connections", "refresh", id_)

    first = served.run("audit", "list", "--limit", "1", "--json")
    second = served.run("audit", "list", "--after", first.stderr.split()[-1], "--json")

    assert [act["id"] for act in lines(first) + lines(second)] == [2, 1]
    assert second.stderr == ""
