"""A secret that is wrong, for as long as it takes somebody to notice: nothing that Meld sent is missing afterwards."""

import json
from pathlib import Path

from sqlalchemy import func
from sqlmodel import col, select

from runtime.database import Database
from schemas.tables import ReadRequestRow, RejectionRow, WebhookRow
from tests.end_to_end.deployment import Deployment, deployed
from tests.end_to_end.test_crashes import is_all_there, is_gapless, storm
from tests.service.rejected.refused_requests import WRONG, make_store, refused
from tests.support.encryption_keys import KEY
from tests.support.meld_signature import SECRET, URL
from tests.support.polling import eventually
from tests.support.webhook_factory import body

COUNT = 3_000


def sent(deployment: Deployment) -> set[str]:
    """Return the event ids of all webhooks that Meld has tried to deliver."""
    return {webhook.event.event_id for webhook in deployment.meld.outbox.webhooks() if webhook.attempts}


def kept(deployment: Deployment) -> list[str]:
    """Return the event ids of the refused webhooks that look like Meld's."""
    page = deployment.get("/api/rejections", reason="wrong", limit=1000)
    return [each["event_id"] for each in page["rejections"] if each["likely"]]


def live_with(deployment: Deployment, setting: str, value: str) -> None:
    """Let Meld send for a while, in vain, to a service with a wrong setting; then end that."""
    right = deployment.environment[setting]
    deployment.environment[setting] = value
    deployment.start_all()
    storm(deployment.meld, 2, 15)
    eventually(lambda: set(kept(deployment)) == sent(deployment), 30, message="all of it")
    for process in deployment.processes:
        process.kill()
        process.wait()
    deployment.environment[setting] = right


def test_nothing_is_missing_after_a_wrong_secret(deployment: Deployment) -> None:
    """On every set-up: what was refused is admitted with the right one, the mirror is true, and each is told once."""
    live_with(deployment, "MELDWATCH_WEBHOOK_SECRETS", WRONG)
    events = sent(deployment)

    dry = deployment.run("webhooks", "reverify", "--dry-run", "--json")
    ended = deployment.run("webhooks", "reverify", "--json")
    deployment.start_all()

    assert json.loads(dry.stdout)["admitted"] == json.loads(ended.stdout)["admitted"] == len(events)
    assert (dry.returncode, ended.returncode) == (0, 0), ended.stderr
    eventually(lambda: is_all_there(deployment), 60, message="everything processed, and the mirror true")
    stored = [webhook["event_id"] for webhook in deployment.webhooks()]
    assert len(stored) == len(set(stored))
    assert set(stored) >= events
    assert is_gapless(deployment)
    (act,) = deployment.get("/api/audit", act="webhooks.reverified", limit=1)["acts"]
    assert act["who"].startswith("cli:")


def test_a_wrong_url_is_mended_beside_the_service(embedded: Deployment) -> None:
    """Meld's own retries come in meanwhile: whoever is first, each is stored once, and a second run finds nothing."""
    live_with(embedded, "MELDWATCH_WEBHOOK_URLS", "https://hooks.example.com/webhooks/meld")
    embedded.start_all()

    came_to = json.loads(embedded.run("webhooks", "reverify", "--json").stdout)
    again = embedded.run("webhooks", "reverify")
    listed = embedded.run("webhooks", "rejected", "--state", "admitted", "--json", "--limit", "1000")

    assert came_to["admitted"] + came_to["repeats"] == len(kept(embedded)) == len(listed.stdout.splitlines())
    assert again.returncode == 0
    assert [line.split() for line in again.stdout.splitlines()[1:]][:2] == [["admitted", "0"], ["repeats", "0"]]
    eventually(lambda: is_all_there(embedded), 60, message="everything processed, and the mirror true")
    assert len(embedded.webhooks()) == len({webhook["event_id"] for webhook in embedded.webhooks()})
    assert is_gapless(embedded)


def counts(database: Database) -> tuple[int, int]:
    """Return how many webhooks are stored, and how many refused ones are admitted."""
    admitted = select(func.count()).select_from(RejectionRow).where(col(RejectionRow.admitted_at).is_not(None))
    with database.read() as session:
        return session.exec(select(func.count()).select_from(WebhookRow)).one(), session.exec(admitted).one()


def test_one_that_is_killed_again_and_again_admits_each_once(database: Database, tmp_path: Path) -> None:
    """SIGKILL of ``reverify`` midway, several times: the next one goes on, and in the end each is stored once."""
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
            eventually(lambda before=before: counts(database) > before, 30, message="some of them")
            process.kill()
            process.wait()
        midway = counts(database)
        ended = deployment.run("webhooks", "reverify", "--json")

    came_to = json.loads(ended.stdout)
    assert midway[1] < COUNT
    assert ended.returncode == 0
    assert came_to["admitted"] + came_to["repeats"] == COUNT - midway[1]
    assert counts(database) == (COUNT, COUNT)
    with database.read() as session:
        assert set(session.exec(select(WebhookRow.deliveries)).all()) == {1}
        assert set(session.exec(select(ReadRequestRow.requested)).all()) == {1}


def test_a_web_process_that_is_killed_keeps_what_it_had_written(many: Deployment) -> None:
    """SIGKILL of ``web`` among strangers and refusals: what was kept stays, and Meld's retries bring the rest."""
    many.environment["MELDWATCH_WEBHOOK_SECRETS"] = WRONG
    web = many.start("web")
    eventually(lambda: many.status("/healthz") == 200, 30, message=f"the answer; {many.logs()}")
    connections = [many.meld.world.add() for _ in range(30)]
    for connection in connections:
        many.send_webhook(connection.id)
    eventually(lambda: kept(many), message="the first of them")

    web.kill()
    web.wait()
    many.start("web")
    eventually(lambda: many.status("/healthz") == 200, 30, message=f"the answer; {many.logs()}")

    eventually(lambda: set(kept(many)) == sent(many), 60, message="all of them")
    assert len(kept(many)) == 30
