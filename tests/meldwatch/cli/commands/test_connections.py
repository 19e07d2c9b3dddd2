"""The commands ``connections``: lists, one connection, its timeline, and failed reads."""

import json

from runtime.database import Database
from tests.end_to_end.deployment import Deployment
from tests.meldwatch.cli.command_helpers import parse_json_lines, read_json_lines
from tests.support import row_factory
from tests.support.polling import eventually


def test_stored_rows_are_listed_and_shown(served: Deployment) -> None:
    """``list`` and ``show`` of connections, webhooks and events print JSON Lines that equal the API."""
    (connection,) = read_json_lines(served.run("connections", "list", "--status", "ACTIVE", "--json"))
    (shown,) = read_json_lines(served.run("connections", "show", connection["id"], "--json"))
    webhooks = read_json_lines(served.run("webhooks", "list", "--state", "processed", "--json"))
    (webhook,) = read_json_lines(served.run("webhooks", "show", webhooks[0]["event_id"], "--json"))
    events = read_json_lines(served.run("events", "list", "--connection", connection["id"], "--json"))
    (event,) = read_json_lines(served.run("events", "show", "1", "--json"))

    assert [connection, shown] == [served.mirror()[connection["id"]]] * 2
    assert webhooks == served.webhooks()
    assert webhook == webhooks[0]
    assert events == served.events()
    assert event == events[0]


def test_failed_reads_are_listed(served: Deployment) -> None:
    """``connections failed`` prints dead read requests with their error: JSON Lines that equal the API, or a table."""
    database = Database(served.environment["MELDWATCH_DATABASE_URL"])
    row_factory.store(
        database,
        row_factory.read_request(
            "dead", trigger="reconcile", requested=1, failed_at=row_factory.TIME, error="Meld answered"
        ),
    )
    database.close()

    failures = read_json_lines(served.run("connections", "failed", "--json"))
    table = served.run("connections", "failed").stdout.splitlines()

    assert failures == served.get("/api/failures")["failures"]
    assert (failures[0]["connection_id"], failures[0]["retry_at"]) == ("dead", None)
    assert (table[0].split()[0], table[1].split()[0]) == ("connection_id", "dead")


def test_the_default_output_is_a_table(served: Deployment) -> None:
    """Without ``--json``, a list has a header and one line per row; no value is wrapped or cut."""
    (id_,) = served.mirror()

    listed = served.run("connections", "list").stdout.splitlines()

    assert listed[0].split()[:2] == ["id", "status"]
    assert listed[1].split()[:2] == [id_, "ACTIVE"]


def test_a_refresh_requests_a_read(served: Deployment) -> None:
    """After ``connections refresh``, the running service reads the connection within seconds."""
    (id_,) = served.mirror()
    reads = served.count_reads(id_)

    ended = served.run("connections", "refresh", id_)

    assert ended.returncode == 0
    eventually(lambda: served.count_reads(id_) == reads + 1, message="the read")


def test_show_has_the_timeline(changed_service: Deployment) -> None:
    """``connections show`` prints a connection and its timeline; ``--timeline --json`` equals the API, page by page."""
    (id_,) = changed_service.mirror()
    api = changed_service.get(f"/api/connections/{id_}/timeline")["timeline"]

    text = changed_service.run("connections", "show", id_).stdout
    json_output = changed_service.run("connections", "show", id_, "--timeline", "--json").stdout
    page = changed_service.run("connections", "show", id_, "--timeline", "--json", "--limit", "2")
    cursor = page.stderr.split()[-1]
    rest = changed_service.run("connections", "show", id_, "--timeline", "--json", "--after", cursor).stdout

    assert {item["kind"] for item in api} == {"webhook", "read", "event"}
    assert parse_json_lines(json_output) == api
    assert parse_json_lines(page.stdout) + parse_json_lines(rest) == api
    assert text.startswith("id ")
    assert "status: ACTIVE -> " in text
    assert "connection.status_changed" in text


def test_show_at_a_time(changed_service: Deployment) -> None:
    """``--at`` shows the connection as of the last read before that time; an invalid time is refused."""
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
