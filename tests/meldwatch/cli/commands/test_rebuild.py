"""Looking back, beside a running service."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from runtime.clock import utcnow
from runtime.database import Database
from schemas import tables
from tests.end_to_end.deployment import Deployment, deployed
from tests.support import row_factory
from tests.support.polling import eventually


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """A fresh database, of each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def served(url: str, tmp_path: Path) -> Iterator[Deployment]:
    """A running service with one connection, which has changed since it was first seen."""
    with deployed(tmp_path, url, "memory://") as deployment:
        deployment.start("up")
        deployment.wait_until_ready()
        id_ = deployment.meld.world.start().id
        deployment.meld.send_webhooks(deployment.meld.world.complete(id_))
        eventually(lambda: deployment.mirror() and deployment.is_settled(), message="the mirror")
        deployment.meld.send_webhooks(deployment.meld.world.break_connection(id_))
        eventually(lambda: deployment.is_true() and deployment.is_settled(), message="the change")
        yield deployment


def change(url: str, statement: str) -> None:
    """Damage rows, behind the back of the program."""
    database = Database(url)
    with database.write() as session:
        session.connection().execute(text(statement))
    database.close()


def differences(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_rebuild_finds_nothing_then_damage_then_mends_it(served: Deployment, url: str) -> None:
    """The exit code says whether anything differs; after ``--apply`` nothing does, and the feed has what it lacked."""
    (id_,) = served.mirror()
    told = served.events()
    whole = served.run("rebuild", "--check", "--json")
    change(url, "UPDATE connection SET status = 'x'")
    change(url, "DELETE FROM event WHERE sequence = 1")

    found = served.run("rebuild", "--check", "--json")
    mended = served.run("rebuild", "--apply", "--json")
    again = served.run("rebuild", "--check")

    assert (whole.returncode, whole.stdout) == (0, "")
    assert [(each["connection_id"], each["kind"], each["field"]) for each in differences(found.stdout)] == [
        (id_, "event", "row"),
        (id_, "mirror", "status"),
    ]
    assert (found.returncode, mended.returncode, again.returncode) == (1, 0, 0)
    assert [each["is_mended"] for each in differences(mended.stdout)] == [True, True]
    assert "0 differences" in again.stderr
    assert [(event["id"], event["sequence"]) for event in served.events()] == [
        (event["id"], event["sequence"]) for event in (*told[1:], told[0])
    ]
    assert served.is_true()


def test_what_is_found_is_told_to_people(served: Deployment, url: str) -> None:
    """Each difference is one line with what is there, what should be, and whether it can be mended."""
    (id_,) = served.mirror()
    change(url, "UPDATE connection SET status = 'x'")
    change(url, "UPDATE event SET id = 'strange', observation_id = 999 WHERE sequence = 1")

    ended = served.run("rebuild", "--check")

    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    status = served.mirror()[id_]["status"]
    assert status == "x"
    assert any(line.startswith(f"{id_}  mirror: status is x, should be ") for line in lines)
    assert f"{id_}  event strange: connection.status_changed follows from no read  [cannot be repaired]" in lines
    assert f"{id_}  history: an observation is missing or corrupt: [999]  [cannot be repaired]" in lines


@pytest.mark.parametrize("options", [(), ("--check", "--apply")], ids=["neither", "both"])
def test_a_rebuild_must_be_told_which(sqlite_url: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Neither or both of the two ways is a user's mistake, and writes nothing."""
    with deployed(tmp_path, sqlite_url, "memory://") as deployment:
        ended = deployment.run("rebuild", *options)

    assert (ended.returncode, "--check" in ended.stderr, ended.stdout) == (2, True, "")


def test_what_happened_is_shown_behind_what_is(served: Deployment) -> None:
    """``connections show`` tells the connection and its timeline to people, ``--json`` either, as the API has it."""
    (id_,) = served.mirror()
    api = served.get(f"/api/connections/{id_}/timeline")["timeline"]

    people = served.run("connections", "show", id_).stdout
    machine = served.run("connections", "show", id_, "--timeline", "--json").stdout
    page = served.run("connections", "show", id_, "--timeline", "--json", "--limit", "2")
    cursor = page.stderr.split()[-1]
    rest = served.run("connections", "show", id_, "--timeline", "--json", "--after", cursor).stdout

    assert {item["kind"] for item in api} == {"webhook", "read", "event"}
    assert differences(machine) == api
    assert differences(page.stdout) + differences(rest) == api
    assert people.startswith("id ")
    assert "status: ACTIVE -> " in people
    assert "connection.status_changed" in people


def test_a_connection_is_shown_as_it_was(served: Deployment) -> None:
    """``--at`` shows the connection after the last read that was done by then; a time that is none is refused."""
    (id_,) = served.mirror()
    items = served.get(f"/api/connections/{id_}/timeline")["timeline"]
    first = next(item["at"] for item in items if item["kind"] == "read")

    then = served.run("connections", "show", id_, "--at", first, "--json")
    before = served.run("connections", "show", id_, "--at", "2020-01-01T00:00:00Z")
    wrong = served.run("connections", "show", id_, "--at", "yesterday")

    shown = json.loads(then.stdout)
    assert (shown["status"], shown["sequence"]) == ("ACTIVE", 1)
    assert served.mirror()[id_]["status"] != "ACTIVE"
    assert (before.returncode, "was not known at 2020-01-01T00:00:00Z" in before.stderr) == (2, True)
    assert (wrong.returncode, "--at" in wrong.stderr) == (2, True)


AGED = "UPDATE webhook SET received_at = '2020-01-01 00:00:00', delivered_at = '2020-01-01 00:00:00'"
OLD = {f"MELDWATCH_RETAIN_{name}_DAYS": "0" for name in ("EVENTS", "OBSERVATIONS", "BODIES")}


def look(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Return rows, as the database has them."""
    database = Database(url)
    with database.read() as session:
        found = [tuple(row) for row in session.connection().execute(text(statement))]
    database.close()
    return found


def test_a_prune_removes_what_is_old_beside_a_service(served: Deployment, url: str) -> None:
    """A dry run counts and writes nothing; a run removes as much; and everything goes on from there."""
    (id_,) = served.mirror()
    told = served.events()
    change(url, f"{AGED} WHERE id = 1")

    dry = served.run("prune", "--dry-run", "--json", **OLD)
    untouched = (served.events(), look(url, "SELECT count(*) FROM audit"))
    ran = served.run("prune", "--json", **OLD)
    again = served.run("prune", **OLD)
    served.meld.send_webhooks(served.meld.world.repair(id_))
    eventually(lambda: served.is_true() and served.is_settled(), message="the change")

    assert untouched == (told, [(0,)])
    removed = json.loads(dry.stdout)
    assert (removed["webhooks"], removed["events"]) == (1, len(told))
    assert removed["observations"] >= 1
    assert (dry.returncode, ran.returncode, again.returncode) == (0, 0, 0)
    assert json.loads(ran.stdout) == removed
    assert again.stdout.splitlines()[0].split() == ["kind", "rows", "deleted"]
    assert all(line.split()[1] == "0" for line in again.stdout.splitlines()[1:])
    (act, _) = look(url, "SELECT who, act FROM audit ORDER BY id")
    assert (act[0].split(":")[0], act[1]) == ("cli", "rows.pruned")
    (event,) = served.events()
    assert int(event["sequence"]) == len(told) + 1
    assert served.run("rebuild", "--check").returncode == 0


def test_a_killed_prune_has_noted_what_it_removed(url: str, tmp_path: Path) -> None:
    """Killed in the middle of it, nothing is half done; the next one does the rest."""
    with deployed(tmp_path, url, "memory://") as deployment:
        database = Database(url)
        old = datetime(2020, 1, 1, tzinfo=UTC)
        row_factory.store(database, row_factory.webhook(received_at=old, delivered_at=old, processed_at=old))
        names = "type, signed_at, received_at, delivered_at, processed_at, url, headers, body, deliveries"
        number = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 29999)"
        change(url, f"INSERT INTO webhook (event_id, {names}) {number} SELECT 'w' || n, {names} FROM webhook, n")
        database.close()

        process = deployment.start("prune")
        eventually(lambda: noted(url), seconds=30, message="the first batch")
        process.kill()
        process.wait()
        (removed,) = noted(url)
        left = look(url, "SELECT count(*) FROM webhook")[0][0]
        refused = deployment.run("prune")
        change(url, "UPDATE lease SET until = '2020-01-01 00:00:00'")
        ended = deployment.run("prune", "--json")

    assert 0 < removed < 30_000
    assert removed + left == 30_000
    assert (refused.returncode, "Another prune is running, or was killed" in refused.stderr) == (2, True)
    assert (ended.returncode, json.loads(ended.stdout)["webhooks"]) == (0, left)


def noted(url: str) -> list[int]:
    """Return how many webhooks each prune has noted so far, if any."""
    acts = look(url, "SELECT details FROM audit ORDER BY id")
    details = [json.loads(act) if isinstance(act, str) else act for (act,) in acts]
    return [each["webhooks"] for each in details if each["webhooks"]]


def test_the_clock_prunes_once_a_day(sqlite_url: str, tmp_path: Path) -> None:
    """When a day has gone by since the last time, in its own name."""
    with deployed(tmp_path, sqlite_url, "memory://") as deployment:
        old = utcnow() - timedelta(days=100)
        database = Database(sqlite_url)
        row_factory.store(
            database,
            row_factory.webhook(received_at=old, delivered_at=old, processed_at=old),
            tables.TaskLeaseRow(name="prune", holder="x", until=old, ran_at=utcnow() - timedelta(hours=25)),
        )
        database.close()
        deployment.start("up")
        deployment.wait_until_ready()

        eventually(lambda: look(sqlite_url, "SELECT who FROM audit") == [("clock",)], 30, message="the prune")
        eventually(lambda: deployment.webhooks() == [], message="its end")
