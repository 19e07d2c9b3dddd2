"""The commands ``connections``: lists, one connection, its timeline, and failed reads."""

import json

from runtime.database import Database
from tests.end_to_end.deployment import Deployment
from tests.meldwatch.cli.command_helpers import lines, parse_json_lines
from tests.support import row_factory
from tests.support.polling import eventually


def test_what_is_stored_can_be_looked_at(served: Deployment) -> None:
    """Connections, webhooks and events are listed and shown, as JSON Lines that equal what the API says."""
    (connection,) = lines(served.run("connections", "list", "--status", "ACTIVE", "--json"))
    (shown,) = lines(served.run("connections", "show", connection["id"], "--json"))
    webhooks = lines(served.run("webhooks", "list", "--state", "processed", "--json"))
    (webhook,) = lines(served.run("webhooks", "show", webhooks[0]["event_id"], "--json"))
    events = lines(served.run("events", "list", "--connection", connection["id"], "--json"))
    (event,) = lines(served.run("events", "show", "1", "--json"))

    assert [connection, shown] == [served.mirror()[connection["id"]]] * 2
    assert webhooks == served.webhooks()
    assert webhook == webhooks[0]
    assert events == served.events()
    assert event == events[0]


def test_what_was_given_up_is_listed(served: Deployment) -> None:
    """Connections whose reads failed too often, with why: as JSON Lines that equal what the API says, or a table."""
    database = Database(served.environment["MELDWATCH_DATABASE_URL"])
    row_factory.store(
        database,
        row_factory.read_request(
            "dead", trigger="reconcile", requested=1, failed_at=row_factory.TIME, error="Meld answered"
        ),
    )
    database.close()

    failures = lines(served.run("connections", "failed", "--json"))
    table = served.run("connections", "failed").stdout.splitlines()

    assert failures == served.get("/api/failures")["failures"]
    assert (failures[0]["connection_id"], failures[0]["retry_at"]) == ("dead", None)
    assert (table[0].split()[0], table[1].split()[0]) == ("connection_id", "dead")


def test_tables_are_for_people(served: Deployment) -> None:
    """Without ``--json`` there is a head line and a line for each row, and nothing is folded or cut."""
    (id_,) = served.mirror()

    listed = served.run("connections", "list").stdout.splitlines()

    assert listed[0].split()[:2] == ["id", "status"]
    assert listed[1].split()[:2] == [id_, "ACTIVE"]


def test_a_refresh_leads_to_a_read(served: Deployment) -> None:
    """``connections refresh`` has the running service read the connection again, within seconds."""
    (id_,) = served.mirror()
    reads = served.count_reads(id_)

    ended = served.run("connections", "refresh", id_)

    assert ended.returncode == 0
    eventually(lambda: served.count_reads(id_) == reads + 1, message="the read")


def test_what_happened_is_shown_behind_what_is(changed_service: Deployment) -> None:
    """``connections show`` tells the connection and its timeline to people, ``--json`` either, as the API has it."""
    (id_,) = changed_service.mirror()
    api = changed_service.get(f"/api/connections/{id_}/timeline")["timeline"]

    people = changed_service.run("connections", "show", id_).stdout
    machine = changed_service.run("connections", "show", id_, "--timeline", "--json").stdout
    page = changed_service.run("connections", "show", id_, "--timeline", "--json", "--limit", "2")
    cursor = page.stderr.split()[-1]
    rest = changed_service.run("connections", "show", id_, "--timeline", "--json", "--after", cursor).stdout

    assert {item["kind"] for item in api} == {"webhook", "read", "event"}
    assert parse_json_lines(machine) == api
    assert parse_json_lines(page.stdout) + parse_json_lines(rest) == api
    assert people.startswith("id ")
    assert "status: ACTIVE -> " in people
    assert "connection.status_changed" in people


def test_a_connection_is_shown_as_it_was(changed_service: Deployment) -> None:
    """``--at`` shows the connection after the last read that was done by then; a time that is none is refused."""
    (id_,) = changed_service.mirror()
    items = changed_service.get(f"/api/connections/{id_}/timeline")["timeline"]
    first = next(item["at"] for item in items if item["kind"] == "read")

    then = changed_service.run("connections", "show", id_, "--at", first, "--json")
    before = changed_service.run("connections", "show", id_, "--at", "2020-01-01T00:00:00Z")
    wrong = changed_service.run("connections", "show", id_, "--at", "yesterday")

    shown = json.loads(then.stdout)
    assert (shown["status"], shown["sequence"]) == ("ACTIVE", 1)
    assert changed_service.mirror()[id_]["status"] != "ACTIVE"
    assert (before.returncode, "was not known at 2020-01-01T00:00:00Z" in before.stderr) == (2, True)
    assert (wrong.returncode, "--at" in wrong.stderr) == (2, True)
