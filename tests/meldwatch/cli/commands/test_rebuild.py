"""The command ``rebuild``, beside a running service."""

from pathlib import Path

import pytest

from tests.end_to_end.deployment import Deployment, deployed
from tests.meldwatch.cli.command_helpers import change, parse_json_lines


def test_a_rebuild_finds_nothing_then_damage_then_mends_it(changed_service: Deployment, url: str) -> None:
    """The exit code says whether anything differs; after ``--apply`` nothing does, and the feed has what it lacked."""
    (id_,) = changed_service.mirror()
    told = changed_service.events()
    whole = changed_service.run("rebuild", "--check", "--json")
    change(url, "UPDATE connection SET status = 'x'")
    change(url, "DELETE FROM event WHERE sequence = 1")

    found = changed_service.run("rebuild", "--check", "--json")
    mended = changed_service.run("rebuild", "--apply", "--json")
    again = changed_service.run("rebuild", "--check")

    assert (whole.returncode, whole.stdout) == (0, "")
    assert [(each["connection_id"], each["kind"], each["field"]) for each in parse_json_lines(found.stdout)] == [
        (id_, "event", "row"),
        (id_, "mirror", "status"),
    ]
    assert (found.returncode, mended.returncode, again.returncode) == (1, 0, 0)
    assert [each["is_mended"] for each in parse_json_lines(mended.stdout)] == [True, True]
    assert "0 differences" in again.stderr
    assert [(event["id"], event["sequence"]) for event in changed_service.events()] == [
        (event["id"], event["sequence"]) for event in (*told[1:], told[0])
    ]
    assert changed_service.mirror_matches_meld()


def test_what_is_found_is_told_to_people(changed_service: Deployment, url: str) -> None:
    """Each difference is one line with what is there, what should be, and whether it can be mended."""
    (id_,) = changed_service.mirror()
    change(url, "UPDATE connection SET status = 'x'")
    change(url, "UPDATE event SET id = 'strange', observation_id = 999 WHERE sequence = 1")

    ended = changed_service.run("rebuild", "--check")

    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    status = changed_service.mirror()[id_]["status"]
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
