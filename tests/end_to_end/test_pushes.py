"""Pushes of the real program to real consumers: killed, hanging, paused; nothing is lost, and the order is kept."""

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from tests.end_to_end.deployment import TOKEN, Deployment
from tests.end_to_end.test_crashes import storm
from tests.support.encryption_keys import KEY
from tests.support.http import CLIENT
from tests.support.polling import eventually
from tests.support.scripted_consumer import HttpConsumer

PUSH_LEASE_SECONDS = 30.0


@pytest.fixture
def other() -> Iterator[HttpConsumer]:
    """Another consumer on this machine."""
    with HttpConsumer() as made:
        yield made


def allow(deployment: Deployment) -> None:
    deployment.environment["MELDWATCH_PUSH_ALLOWED_NETWORKS"] = "127.0.0.0/8"
    deployment.environment["MELDWATCH_ENCRYPTION_KEYS"] = KEY.get_secret_value()


def subscribe(deployment: Deployment, consumer: HttpConsumer, name: str = "crm") -> dict[str, Any]:
    """Subscribe a consumer, and tell it its secret."""
    made = subscribe_url(deployment, consumer.url, name)
    consumer.secrets.append(made["secret"])
    return made


def subscribe_url(deployment: Deployment, url: str, name: str = "crm") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    wish = {"name": name, "url": url}
    answer = CLIENT.post(deployment.url + "/api/subscriptions", json=wish, headers=headers, timeout=10)
    answer.raise_for_status()
    made: dict[str, Any] = answer.json()
    return made


def got(consumer: HttpConsumer) -> list[dict[str, Any]]:
    """Return the events that came, each at its first coming."""
    events: dict[str, dict[str, Any]] = {}
    for pushed in list(consumer.pushes):
        event = json.loads(pushed.body)
        events.setdefault(event["id"], event)
    return list(events.values())


def is_complete(deployment: Deployment, consumer: HttpConsumer) -> bool:
    return {event["id"] for event in got(consumer)} == {event["id"] for event in deployment.events()}


def is_in_order(consumer: HttpConsumer) -> bool:
    by_subject: dict[str, list[str]] = defaultdict(list)
    for event in got(consumer):
        by_subject[event["subject"]].append(event["sequence"])
    return all(sequences == sorted(sequences) for sequences in by_subject.values())


def test_a_change_is_pushed(deployment: Deployment, consumer: HttpConsumer) -> None:
    """On every set-up: each change reaches the subscriber, signed, in order, and equals what the feed says."""
    allow(deployment)
    deployment.start_all()
    subscribe(deployment, consumer)
    meld = deployment.meld
    connection = meld.world.start()
    for act in (meld.world.complete, meld.world.break_connection, meld.world.heal):
        meld.send_webhooks(act(connection.id))
        eventually(lambda: connection.id in deployment.mirror() and deployment.mirror_matches_meld(), message="the true mirror")

    eventually(lambda: len(got(consumer)) == 3, message=f"the pushes; {deployment.logs()}")
    assert got(consumer) == deployment.events()
    eventually(lambda: [row["state"] for row in deployment.get("/api/deliveries")["deliveries"]] == ["delivered"] * 3)


def test_a_worker_killed_during_a_push_is_replaced(many: Deployment, consumer: HttpConsumer) -> None:
    """SIGKILL while a push is under way: when its lease ends another worker sends it again, then what stands behind."""
    allow(many)
    _web, worker, _clock = many.start_all()
    subscribe(many, consumer)
    consumer.may_answer.clear()
    connection = many.meld.world.add()
    many.send_webhook(connection.id)
    eventually(lambda: len(consumer.pushes) == 1, message=f"the push under way; {many.logs()}")
    worker.kill()
    worker.wait()
    consumer.may_answer.set()
    many.start("worker")
    many.meld.send_webhooks(many.meld.world.break_connection(connection.id))

    eventually(lambda: len(got(consumer)) == 2, PUSH_LEASE_SECONDS + 20, message=f"the pushes; {many.logs()}")
    ids = consumer.event_ids()
    assert ids == [ids[0], ids[0], ids[2]]
    assert [event["sequence"] for event in got(consumer)] == ["00000001", "00000002"]


def test_a_service_killed_again_and_again_loses_no_push(embedded: Deployment, consumer: HttpConsumer) -> None:
    """SIGKILL of the whole service in a storm: every event of the feed comes, in the order of its connection."""
    allow(embedded)
    embedded.start_all()
    subscribe(embedded, consumer)
    life = threading.Thread(target=storm, args=(embedded.meld, 8, 15))
    life.start()
    chance = random.Random(3)
    while life.is_alive():
        time.sleep(chance.uniform(0.3, 1.2))
        embedded.processes[-1].kill()
        embedded.processes[-1].wait()
        embedded.start("up")
        embedded.wait_until_ready()
    life.join()

    eventually(lambda: embedded.has_no_pending_webhooks() and is_complete(embedded, consumer), 60, message="all pushes")
    assert embedded.events()
    assert is_in_order(consumer)


def test_a_hanging_consumer_holds_nobody_up(many: Deployment, consumer: HttpConsumer, other: HttpConsumer) -> None:
    """Beside one that never answers, a healthy one gets every event, in order, within seconds."""
    allow(many)
    many.start_all()
    other.may_answer.clear()
    subscribe(many, other, "hangs")
    subscribe_url(many, "http://127.0.0.1:1/", "dead")
    subscribe(many, consumer, "healthy")
    storm(many.meld, 3, 15)
    eventually(many.has_no_pending_webhooks, 20, message="all webhooks processed")

    eventually(lambda: is_complete(many, consumer), 10, message="the pushes to the healthy one")
    assert many.events()
    assert is_in_order(consumer)
    assert len(other.pushes) <= 4  # half of the worker's threads


def test_what_a_subscriber_missed_comes_later(many: Deployment, consumer: HttpConsumer) -> None:
    """One that answers 410 is disabled; made active again from the command line, it gets what it missed."""
    allow(many)
    many.start_all()
    made = subscribe(many, consumer)
    consumer.statuses.append(410)
    connection = many.meld.world.add()
    many.send_webhook(connection.id)
    eventually(lambda: state_of(many, made["id"]) == "disabled", message="the subscription disabled")
    many.meld.send_webhooks(many.meld.world.break_connection(connection.id))
    eventually(lambda: len(many.events()) == 2, message="the second event")
    during = len(consumer.pushes)

    resumed = many.run("subscriptions", "resume", "crm")

    assert (during, resumed.returncode, state_of(many, made["id"])) == (1, 0, "active")
    eventually(lambda: is_complete(many, consumer) and len(consumer.pushes) == 3, message="what was missed")
    assert is_in_order(consumer)


def state_of(deployment: Deployment, id_: str) -> str:
    return str(deployment.get(f"/api/subscriptions/{id_}")["state"])
