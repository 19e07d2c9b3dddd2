"""The command ``rebuild``, beside a running service."""

from pathlib import Path

import pytest

from tests.end_to_end.deployment import Deployment, deployed
from tests.meldwatch.cli.command_helpers import execute_sql, parse_json_lines


def test_a_rebuild_finds_and_repairs_damage(changed_service: Deployment, url: str) -> None:
    """``--check`` exits with 1 if anything differs; ``--apply`` repairs the mirror and appends missing events."""
    (id_,) = changed_service.mirror()
    events_before = changed_service.events()
    undamaged = changed_service.run("rebuild", "--check", "--json")
    execute_sql(url, "UPDATE connection SET status = 'x'")
    execute_sql(url, "DELETE FROM event WHERE sequence = 1")

    found = changed_service.run("rebuild", "--check", "--json")
    repaired = changed_service.run("rebuild", "--apply", "--json")
    again = changed_service.run("rebuild", "--check")

    assert (undamaged.returncode, undamaged.stdout) == (0, "")
    assert [(each["connection_id"], each["kind"], each["field"]) for each in parse_json_lines(found.stdout)] == [
        (id_, "event", "row"),
        (id_, "mirror", "status"),
    ]
    assert (found.returncode, repaired.returncode, again.returncode) == (1, 0, 0)
    assert [each["is_mended"] for each in parse_json_lines(repaired.stdout)] == [True, True]
    assert "0 differences" in again.stderr
    assert [(event["id"], event["sequence"]) for event in changed_service.events()] == [
        (event["id"], event["sequence"]) for event in (*events_before[1:], events_before[0])
    ]
    assert changed_service.mirror_matches_meld()


def test_differences_are_printed_as_text(changed_service: Deployment, url: str) -> None:
    """One line per difference: the actual value, the expected value, and whether it can be repaired."""
    (id_,) = changed_service.mirror()
    execute_sql(url, "UPDATE connection SET status = 'x'")
    execute_sql(url, "UPDATE event SET id = 'strange', observation_id = 999 WHERE sequence = 1")

    ended = changed_service.run("rebuild", "--check")

    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    status = changed_service.mirror()[id_]["status"]
    assert status == "x"
    assert any(line.startswith(f"{id_}  mirror: status is x, should be ") for line in lines)
    assert f"{id_}  event strange: connection.status_changed follows from no read  [cannot be repaired]" in lines
    assert f"{id_}  history: an observation is missing or corrupt: [999]  [cannot be repaired]" in lines


@pytest.mark.parametrize("options", [(), ("--check", "--apply")], ids=["neither", "both"])
def test_a_rebuild_needs_check_or_apply(sqlite_url: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Neither or both of the options are bad usage, and nothing is written."""
    with deployed(tmp_path, sqlite_url, "memory://") as deployment:
        ended = deployment.run("rebuild", *options)

    assert (ended.returncode, "--check" in ended.stderr, ended.stdout) == (2, True, "")
