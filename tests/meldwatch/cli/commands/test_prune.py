"""The command ``prune``, and the daily prune of the scheduler."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runtime.clock import utcnow
from runtime.database import Database
from schemas import tables
from tests.end_to_end.deployment import Deployment, deployed
from tests.meldwatch.cli.command_helpers import execute_sql, select_rows
from tests.support import row_factory
from tests.support.polling import eventually

AGE_WEBHOOKS = "UPDATE webhook SET received_at = '2020-01-01 00:00:00', delivered_at = '2020-01-01 00:00:00'"
RETAIN_NOTHING = {f"MELDWATCH_RETAIN_{name}_DAYS": "0" for name in ("EVENTS", "OBSERVATIONS", "BODIES")}


def test_a_prune_deletes_expired_rows_beside_a_service(changed_service: Deployment, url: str) -> None:
    """A dry run counts and writes nothing; a run deletes as many rows; the service continues to work."""
    (id_,) = changed_service.mirror()
    events_before = changed_service.events()
    execute_sql(url, f"{AGE_WEBHOOKS} WHERE id = 1")

    dry = changed_service.run("prune", "--dry-run", "--json", **RETAIN_NOTHING)
    untouched = (changed_service.events(), select_rows(url, "SELECT count(*) FROM audit"))
    ran = changed_service.run("prune", "--json", **RETAIN_NOTHING)
    again = changed_service.run("prune", **RETAIN_NOTHING)
    changed_service.meld.send_webhooks(changed_service.meld.world.repair(id_))
    eventually(
        lambda: changed_service.mirror_matches_meld() and changed_service.has_no_pending_webhooks(),
        message="the change",
    )

    assert untouched == (events_before, [(0,)])
    removed = json.loads(dry.stdout)
    assert (removed["webhooks"], removed["events"]) == (1, len(events_before))
    assert removed["observations"] >= 1
    assert (dry.returncode, ran.returncode, again.returncode) == (0, 0, 0)
    assert json.loads(ran.stdout) == removed
    assert again.stdout.splitlines()[0].split() == ["kind", "rows", "deleted"]
    assert all(line.split()[1] == "0" for line in again.stdout.splitlines()[1:])
    (act, _) = select_rows(url, "SELECT who, act FROM audit ORDER BY id")
    assert (act[0].split(":")[0], act[1]) == ("cli", "rows.pruned")
    (event,) = changed_service.events()
    assert int(event["sequence"]) == len(events_before) + 1
    assert changed_service.run("rebuild", "--check").returncode == 0


def test_a_killed_prune_is_audited_and_resumed(url: str, tmp_path: Path) -> None:
    """The audit log counts the rows that a killed prune deleted; the next prune deletes the rest."""
    with deployed(tmp_path, url, "memory://") as deployment:
        database = Database(url)
        old = datetime(2020, 1, 1, tzinfo=UTC)
        row_factory.store(database, row_factory.webhook(received_at=old, delivered_at=old, processed_at=old))
        names = "type, signed_at, received_at, delivered_at, processed_at, url, headers, body, deliveries"
        number = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 29999)"
        execute_sql(url, f"INSERT INTO webhook (event_id, {names}) {number} SELECT 'w' || n, {names} FROM webhook, n")
        database.close()

        process = deployment.start("prune")
        eventually(lambda: audited_counts(url), seconds=30, message="the first batch")
        process.kill()
        process.wait()
        (removed,) = audited_counts(url)
        left = select_rows(url, "SELECT count(*) FROM webhook")[0][0]
        refused = deployment.run("prune")
        execute_sql(url, "UPDATE lease SET until = '2020-01-01 00:00:00'")
        ended = deployment.run("prune", "--json")

    assert 0 < removed < 30_000
    assert removed + left == 30_000
    assert (refused.returncode, "Another prune is running, or was killed" in refused.stderr) == (2, True)
    assert (ended.returncode, json.loads(ended.stdout)["webhooks"]) == (0, left)


def audited_counts(url: str) -> list[int]:
    """Return the number of webhooks in each audit entry of a prune that deleted any."""
    acts = select_rows(url, "SELECT details FROM audit ORDER BY id")
    details = [json.loads(act) if isinstance(act, str) else act for (act,) in acts]
    return [each["webhooks"] for each in details if each["webhooks"]]


def test_the_scheduler_prunes_once_a_day(sqlite_url: str, tmp_path: Path) -> None:
    """It prunes if the last prune began more than a day ago; the audit entry names the clock."""
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

        eventually(lambda: select_rows(sqlite_url, "SELECT who FROM audit") == [("clock",)], 30, message="the prune")
        eventually(lambda: deployment.webhooks() == [], message="its end")
