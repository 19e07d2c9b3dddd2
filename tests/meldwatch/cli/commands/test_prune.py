"""The command ``prune``, and the daily prune of the scheduler."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runtime.clock import utcnow
from runtime.database import Database
from schemas import tables
from tests.end_to_end.deployment import Deployment, deployed
from tests.meldwatch.cli.command_helpers import change, look
from tests.support import row_factory
from tests.support.polling import eventually

AGED = "UPDATE webhook SET received_at = '2020-01-01 00:00:00', delivered_at = '2020-01-01 00:00:00'"
OLD = {f"MELDWATCH_RETAIN_{name}_DAYS": "0" for name in ("EVENTS", "OBSERVATIONS", "BODIES")}


def test_a_prune_removes_what_is_old_beside_a_service(changed_service: Deployment, url: str) -> None:
    """A dry run counts and writes nothing; a run removes as much; and everything goes on from there."""
    (id_,) = changed_service.mirror()
    told = changed_service.events()
    change(url, f"{AGED} WHERE id = 1")

    dry = changed_service.run("prune", "--dry-run", "--json", **OLD)
    untouched = (changed_service.events(), look(url, "SELECT count(*) FROM audit"))
    ran = changed_service.run("prune", "--json", **OLD)
    again = changed_service.run("prune", **OLD)
    changed_service.meld.send_webhooks(changed_service.meld.world.repair(id_))
    eventually(
        lambda: changed_service.mirror_matches_meld() and changed_service.has_no_pending_webhooks(),
        message="the change",
    )

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
    (event,) = changed_service.events()
    assert int(event["sequence"]) == len(told) + 1
    assert changed_service.run("rebuild", "--check").returncode == 0


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
