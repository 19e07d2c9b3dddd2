"""Pushes of the real program to real consumers: order and completeness despite crashes, outages and pauses."""

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from tests.end_to_end.deployment import TOKEN, Deployment
from tests.end_to_end.test_crashes import run_random_activity
from tests.support.encryption_keys import KEY
from tests.support.http import CLIENT
from tests.support.polling import eventually
from tests.support.scripted_consumer import HttpConsumer

PUSH_LEASE_SECONDS = 30.0


@pytest.fixture
def second_consumer() -> Iterator[HttpConsumer]:
    """Another consumer on this machine."""
    with HttpConsumer() as server:
        yield server


def allow_local_pushes(deployment: Deployment) -> None:
    deployment.environment["MELDWATCH_PUSH_ALLOWED_NETWORKS"] = "127.0.0.0/8"
    deployment.environment["MELDWATCH_ENCRYPTION_KEYS"] = KEY.get_secret_value()


def subscribe(deployment: Deployment, consumer: HttpConsumer, name: str = "crm") -> dict[str, Any]:
    """Create a subscription for a consumer, and pass the secret to the consumer."""
    made = subscribe_url(deployment, consumer.url, name)
    consumer.secrets.append(made["secret"])
    return made


def subscribe_url(deployment: Deployment, url: str, name: str = "crm") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    subscription = {"name": name, "url": url}
    answer = CLIENT.post(deployment.url + "/api/subscriptions", json=subscription, headers=headers, timeout=10)
    answer.raise_for_status()
    made: dict[str, Any] = answer.json()
    return made


def list_received_events(consumer: HttpConsumer) -> list[dict[str, Any]]:
    """Return the received events in order, without duplicates."""
    events: dict[str, dict[str, Any]] = {}
    for push in list(consumer.pushes):
        event = json.loads(push.body)
        events.setdefault(event["id"], event)
    return list(events.values())


def has_received_all_events(deployment: Deployment, consumer: HttpConsumer) -> bool:
    return {event["id"] for event in list_received_events(consumer)} == {event["id"] for event in deployment.events()}


def has_received_in_order(consumer: HttpConsumer) -> bool:
    by_subject: dict[str, list[str]] = defaultdict(list)
    for event in list_received_events(consumer):
        by_subject[event["subject"]].append(event["sequence"])
    return all(sequences == sorted(sequences) for sequences in by_subject.values())


def test_each_change_is_pushed(deployment: Deployment, consumer: HttpConsumer) -> None:
    """On every set-up: the consumer receives the events of the feed, signed and in order."""
    allow_local_pushes(deployment)
    deployment.start_all()
    subscribe(deployment, consumer)
    meld = deployment.meld
    connection = meld.world.start()
    for act in (meld.world.complete, meld.world.break_connection, meld.world.heal):
        meld.send_webhooks(act(connection.id))
        eventually(
            lambda: connection.id in deployment.mirror() and deployment.mirror_matches_meld(),
            message="a mirror that matches Meld",
        )

    eventually(lambda: len(list_received_events(consumer)) == 3, message=f"the pushes; {deployment.logs()}")
    assert list_received_events(consumer) == deployment.events()
    eventually(lambda: [row["state"] for row in deployment.get("/api/deliveries")["deliveries"]] == ["delivered"] * 3)


def test_a_worker_killed_during_a_push_is_replaced(multi_process: Deployment, consumer: HttpConsumer) -> None:
    """SIGKILL during a push: another worker repeats it when the lease expires, then sends the later events."""
    allow_local_pushes(multi_process)
    _web, worker, _clock = multi_process.start_all()
    subscribe(multi_process, consumer)
    consumer.may_answer.clear()
    connection = multi_process.meld.world.add()
    multi_process.send_webhook(connection.id)
    eventually(lambda: len(consumer.pushes) == 1, message=f"a push in progress; {multi_process.logs()}")
    worker.kill()
    worker.wait()
    consumer.may_answer.set()
    multi_process.start("worker")
    multi_process.meld.send_webhooks(multi_process.meld.world.break_connection(connection.id))

    eventually(
        lambda: len(list_received_events(consumer)) == 2,
        PUSH_LEASE_SECONDS + 20,
        message=f"the pushes; {multi_process.logs()}",
    )
    ids = consumer.event_ids()
    assert ids == [ids[0], ids[0], ids[2]]
    assert [event["sequence"] for event in list_received_events(consumer)] == ["00000001", "00000002"]


def test_repeated_crashes_of_the_service_lose_no_push(embedded: Deployment, consumer: HttpConsumer) -> None:
    """Repeated SIGKILL of the whole service under load: every event is pushed, in order per connection."""
    allow_local_pushes(embedded)
    embedded.start_all()
    subscribe(embedded, consumer)
    activity = threading.Thread(target=run_random_activity, args=(embedded.meld, 8, 15))
    activity.start()
    generator = random.Random(3)
    while activity.is_alive():
        time.sleep(generator.uniform(0.3, 1.2))
        embedded.processes[-1].kill()
        embedded.processes[-1].wait()
        embedded.start("up")
        embedded.wait_until_ready()
    activity.join()

    eventually(
        lambda: embedded.has_no_pending_webhooks() and has_received_all_events(embedded, consumer),
        60,
        message="the pushes of all events",
    )
    assert embedded.events()
    assert has_received_in_order(consumer)


def test_a_hanging_consumer_does_not_delay_others(
    multi_process: Deployment, consumer: HttpConsumer, second_consumer: HttpConsumer
) -> None:
    """While one consumer never answers, a healthy one receives every event, in order, within seconds."""
    allow_local_pushes(multi_process)
    multi_process.start_all()
    second_consumer.may_answer.clear()
    subscribe(multi_process, second_consumer, "hangs")
    subscribe_url(multi_process, "http://127.0.0.1:1/", "dead")
    subscribe(multi_process, consumer, "healthy")
    run_random_activity(multi_process.meld, 3, 15)
    eventually(multi_process.has_no_pending_webhooks, 20, message="processing of all webhooks")

    eventually(
        lambda: has_received_all_events(multi_process, consumer), 10, message="the pushes to the healthy consumer"
    )
    assert multi_process.events()
    assert has_received_in_order(consumer)
    assert len(second_consumer.pushes) <= 4  # At most half of the worker's threads.


def test_a_resumed_subscription_receives_the_missed_events(multi_process: Deployment, consumer: HttpConsumer) -> None:
    """The answer 410 disables a subscription; after a resume by the CLI its consumer receives the missed events."""
    allow_local_pushes(multi_process)
    multi_process.start_all()
    made = subscribe(multi_process, consumer)
    consumer.statuses.append(410)
    connection = multi_process.meld.world.add()
    multi_process.send_webhook(connection.id)
    eventually(lambda: get_state(multi_process, made["id"]) == "disabled", message="a disabled subscription")
    multi_process.meld.send_webhooks(multi_process.meld.world.break_connection(connection.id))
    eventually(lambda: len(multi_process.events()) == 2, message="the second event")
    during = len(consumer.pushes)

    resumed = multi_process.run("subscriptions", "resume", "crm")

    assert (during, resumed.returncode, get_state(multi_process, made["id"])) == (1, 0, "active")
    eventually(
        lambda: has_received_all_events(multi_process, consumer) and len(consumer.pushes) == 3,
        message="the pushes of the missed events",
    )
    assert has_received_in_order(consumer)


def get_state(deployment: Deployment, id_: str) -> str:
    return str(deployment.get(f"/api/subscriptions/{id_}")["state"])
