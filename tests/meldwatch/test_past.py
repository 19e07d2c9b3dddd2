"""Looking back, beside a running service."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from runtime.database import Database
from tests.eventually import eventually
from tests.flow.deployment import Deployment, deployed


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
        deployment.meld.tell(deployment.meld.world.complete(id_))
        eventually(lambda: deployment.mirror() and deployment.is_settled(), message="the mirror")
        deployment.meld.tell(deployment.meld.world.damage(id_))
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
    assert f"{id_}  event strange: connection.status_changed follows from no read  [cannot be mended]" in lines
    assert f"{id_}  history: an observation is missing or spoilt: [999]  [cannot be mended]" in lines


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
