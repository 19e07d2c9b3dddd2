"""A wrong secret or URL: after the correction ``webhooks reverify`` admits every webhook that was rejected."""

import json
from pathlib import Path

from sqlalchemy import func
from sqlmodel import col, select

from runtime.database import Database
from schemas.tables import ReadRequestRow, RejectionRow, WebhookRow
from tests.end_to_end.deployment import Deployment, deployed
from tests.end_to_end.test_crashes import has_gapless_feed, is_caught_up, run_random_activity
from tests.service.rejected.refused_requests import WRONG, make_store, refused
from tests.support.encryption_keys import KEY
from tests.support.meld_signature import SECRET, URL
from tests.support.polling import eventually
from tests.support.webhook_factory import body

COUNT = 3_000


def list_sent_event_ids(deployment: Deployment) -> set[str]:
    """Return the event ids of all webhooks that Meld has tried to deliver."""
    return {webhook.event.event_id for webhook in deployment.meld.outbox.webhooks() if webhook.attempts}


def list_rejected_event_ids(deployment: Deployment) -> list[str]:
    """Return the event ids of the rejected webhooks that look genuine."""
    page = deployment.get("/api/rejections", reason="wrong", limit=1000)
    return [each["event_id"] for each in page["rejections"] if each["likely"]]


def reject_webhooks_with(deployment: Deployment, setting: str, value: str) -> None:
    """Run a service with a wrong setting, which rejects Meld's webhooks; then stop it and correct the setting."""
    correct = deployment.environment[setting]
    deployment.environment[setting] = value
    deployment.start_all()
    run_random_activity(deployment.meld, 2, 15)
    eventually(
        lambda: set(list_rejected_event_ids(deployment)) == list_sent_event_ids(deployment),
        30,
        message="the rejections of all webhooks",
    )
    for process in deployment.processes:
        process.kill()
        process.wait()
    deployment.environment[setting] = correct


def test_no_webhook_is_missing_after_a_wrong_secret(deployment: Deployment) -> None:
    """On every set-up: with the correct secret every rejected webhook is admitted once, and the mirror matches Meld."""
    reject_webhooks_with(deployment, "MELDWATCH_WEBHOOK_SECRETS", WRONG)
    events = list_sent_event_ids(deployment)

    dry = deployment.run("webhooks", "reverify", "--dry-run", "--json")
    ended = deployment.run("webhooks", "reverify", "--json")
    deployment.start_all()

    assert json.loads(dry.stdout)["admitted"] == json.loads(ended.stdout)["admitted"] == len(events)
    assert (dry.returncode, ended.returncode) == (0, 0), ended.stderr
    eventually(lambda: is_caught_up(deployment), 60, message="processing of all webhooks")
    stored = [webhook["event_id"] for webhook in deployment.webhooks()]
    assert len(stored) == len(set(stored))
    assert set(stored) >= events
    assert has_gapless_feed(deployment)
    (action,) = deployment.get("/api/audit", act="webhooks.reverified", limit=1)["acts"]
    assert action["who"].startswith("cli:")


def test_rejections_of_a_wrong_url_are_admitted_while_the_service_runs(embedded: Deployment) -> None:
    """Each webhook is stored once, although Meld retries it meanwhile, and a second run finds nothing."""
    reject_webhooks_with(embedded, "MELDWATCH_WEBHOOK_URLS", "https://hooks.example.com/webhooks/meld")
    embedded.start_all()

    result = json.loads(embedded.run("webhooks", "reverify", "--json").stdout)
    again = embedded.run("webhooks", "reverify")
    listed = embedded.run("webhooks", "rejected", "--state", "admitted", "--json", "--limit", "1000")

    assert (
        result["admitted"] + result["repeats"]
        == len(list_rejected_event_ids(embedded))
        == len(listed.stdout.splitlines())
    )
    assert again.returncode == 0
    assert [line.split() for line in again.stdout.splitlines()[1:]][:2] == [["admitted", "0"], ["repeats", "0"]]
    eventually(lambda: is_caught_up(embedded), 60, message="processing of all webhooks")
    assert len(embedded.webhooks()) == len({webhook["event_id"] for webhook in embedded.webhooks()})
    assert has_gapless_feed(embedded)


def counts(database: Database) -> tuple[int, int]:
    """Return the number of stored webhooks, and of admitted rejections."""
    admitted = select(func.count()).select_from(RejectionRow).where(col(RejectionRow.admitted_at).is_not(None))
    with database.read() as session:
        return session.exec(select(func.count()).select_from(WebhookRow)).one(), session.exec(admitted).one()


def test_repeated_kills_of_reverify_admit_each_webhook_once(database: Database, tmp_path: Path) -> None:
    """Repeated SIGKILL of ``reverify`` midway: the next run continues, and each webhook is stored once."""
    for start in range(0, COUNT, 500):
        make_store(database).insert([refused(body(f"c{number}")) for number in range(start, start + 500)])
    url = database.engine.url.render_as_string(hide_password=False)
    settings = {
        "MELDWATCH_WEBHOOK_URLS": URL,
        "MELDWATCH_WEBHOOK_SECRETS": f"{SECRET},{WRONG}",
        "MELDWATCH_ENCRYPTION_KEYS": KEY.get_secret_value(),
    }
    with deployed(tmp_path, url, "memory://", **settings) as deployment:
        for _ in range(3):
            before = counts(database)
            process = deployment.start("webhooks", "reverify")
            eventually(lambda before=before: counts(database) > before, 30, message="the first admitted webhooks")
            process.kill()
            process.wait()
        midway = counts(database)
        ended = deployment.run("webhooks", "reverify", "--json")

    result = json.loads(ended.stdout)
    assert midway[1] < COUNT
    assert ended.returncode == 0
    assert result["admitted"] + result["repeats"] == COUNT - midway[1]
    assert counts(database) == (COUNT, COUNT)
    with database.read() as session:
        assert set(session.exec(select(WebhookRow.deliveries)).all()) == {1}
        assert set(session.exec(select(ReadRequestRow.requested)).all()) == {1}


def test_stored_rejections_survive_a_killed_web_process(multi_process: Deployment) -> None:
    """SIGKILL of ``web`` between rejections: stored rejections remain, and Meld's retries add the others."""
    multi_process.environment["MELDWATCH_WEBHOOK_SECRETS"] = WRONG
    web = multi_process.start("web")
    eventually(lambda: multi_process.status("/healthz") == 200, 30, message=f"an answer of web; {multi_process.logs()}")
    connections = [multi_process.meld.world.add() for _ in range(30)]
    for connection in connections:
        multi_process.send_webhook(connection.id)
    eventually(lambda: list_rejected_event_ids(multi_process), message="the first rejection")

    web.kill()
    web.wait()
    multi_process.start("web")
    eventually(lambda: multi_process.status("/healthz") == 200, 30, message=f"an answer of web; {multi_process.logs()}")

    eventually(
        lambda: set(list_rejected_event_ids(multi_process)) == list_sent_event_ids(multi_process),
        60,
        message="the rejections of all webhooks",
    )
    assert len(list_rejected_event_ids(multi_process)) == 30
