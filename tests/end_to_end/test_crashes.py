"""Crashes and outages: processes are killed with SIGKILL, and brokers really lose their messages."""

import random
import signal
import threading
import time
from itertools import pairwise

import pytest
import redis

from simulator.server import Simulator
from tests.end_to_end.deployment import Deployment, stop_process
from tests.support.http import CLIENT
from tests.support.polling import eventually

LEASE_SECONDS = 12.0
"""A read's lease: ``MELD_TIMEOUT_SECONDS`` of these set-ups, which is 2, plus 10."""


def list_acknowledged_event_ids(meld: Simulator) -> set[str]:
    """Return the ids of the webhooks that Meld received the answer 200 for."""
    return {
        webhook.event.event_id
        for webhook in meld.outbox.webhooks()
        if any(attempt.status == 200 for attempt in list(webhook.attempts))
    }


def run_random_activity(meld: Simulator, seconds: float, rate: float) -> None:
    """Let random changes happen at Meld for some seconds, ``rate`` of them per second."""
    CLIENT.post(meld.url + "/sim/life", json={"rate": rate}).raise_for_status()
    deadline = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > deadline, seconds + 5)
    CLIENT.post(meld.url + "/sim/life", json={"rate": 0}).raise_for_status()


def is_caught_up(deployment: Deployment) -> bool:
    """Return whether all acknowledged webhooks are stored, none is pending, and the mirror matches Meld."""
    stored = {webhook["event_id"]: webhook["state"] for webhook in deployment.webhooks()}
    return (
        list_acknowledged_event_ids(deployment.meld) <= set(stored)
        and "pending" not in stored.values()
        and deployment.mirror_matches_meld()
    )


def has_gapless_feed(deployment: Deployment) -> bool:
    """Return whether positions grow, and no connection's sequence has gaps or duplicates."""
    events = deployment.events()
    by_subject: dict[str, list[int]] = {}
    for event in events:
        by_subject.setdefault(event["subject"], []).append(int(event["sequence"]))
    positions = [event["position"] for event in events]
    ids = {event["id"] for event in events}
    in_order = all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_subject.values())
    return positions == sorted(set(positions)) and len(ids) == len(events) and in_order


def test_a_worker_killed_during_a_read_is_replaced(multi_process: Deployment) -> None:
    """SIGKILL during a read: another worker reads the connection when the lease expires, and no webhook is lost."""
    _web, worker, _clock = multi_process.start_all()
    connection = multi_process.meld.world.add()
    multi_process.script_reads(connection.id, {"delay": 1.5})
    multi_process.send_webhook(connection.id)
    eventually(lambda: multi_process.count_reads(connection.id) == 1, message="a read in progress")

    worker.kill()
    multi_process.start("worker")

    eventually(lambda: connection.id in multi_process.mirror(), LEASE_SECONDS + 20, message="the mirror")
    eventually(multi_process.has_no_pending_webhooks, message="processing of the webhook")


def test_killed_web_processes_lose_no_acknowledged_webhook(multi_process: Deployment) -> None:
    """SIGKILL of web processes under load: webhooks answered 200 are stored, and Meld retries the others."""
    multi_process.start_all()
    is_finished = threading.Event()

    def kill_repeatedly() -> None:
        generator = random.Random(1)
        while not is_finished.is_set():
            web = multi_process.processes[0]
            time.sleep(generator.uniform(0.3, 1.2))
            web.kill()
            web.wait()
            multi_process.processes[0] = multi_process.start("web")
            multi_process.processes.pop()
            multi_process.wait_until_ready()

    killer = threading.Thread(target=kill_repeatedly)
    killer.start()
    run_random_activity(multi_process.meld, 8, 15)
    is_finished.set()
    killer.join()

    eventually(lambda: is_caught_up(multi_process), 60, message="processing of all acknowledged webhooks")
    assert has_gapless_feed(multi_process)


def test_repeated_crashes_of_the_embedded_process_lose_nothing(embedded: Deployment) -> None:
    """Repeated SIGKILL of the service under load: no acknowledged webhook is lost, no event emitted twice."""
    embedded.start_all()
    activity = threading.Thread(target=run_random_activity, args=(embedded.meld, 15, 15))
    activity.start()
    generator = random.Random(2)

    kills = 0
    while activity.is_alive():
        time.sleep(generator.uniform(0.2, 1.0))
        embedded.processes[-1].kill()
        embedded.processes[-1].wait()
        kills += 1
        embedded.start("up")
        embedded.wait_until_ready()
    activity.join()

    eventually(lambda: is_caught_up(embedded), 90, message="processing of all acknowledged webhooks")
    assert has_gapless_feed(embedded)
    assert kills


def test_reads_recover_after_the_broker_loses_all_messages(multi_process: Deployment) -> None:
    """FLUSHDB while messages are queued and no worker runs: the scheduler notifies workers again."""
    multi_process.start("web")
    multi_process.start("clock")
    connections = [multi_process.meld.world.add() for _ in range(20)]
    for connection in connections:
        multi_process.send_webhook(connection.id)
    eventually(lambda: multi_process.status("/healthz") == 200, 20)
    eventually(lambda: len(multi_process.webhooks()) == 20, 20, message="the webhooks")

    redis.Redis.from_url(multi_process.environment["MELDWATCH_BROKER_URL"]).flushdb()
    multi_process.start("worker")

    eventually(lambda: len(multi_process.mirror()) == 20, 60, message="the mirror")


def test_webhooks_are_stored_during_a_broker_outage(multi_process: Deployment) -> None:
    """Webhooks are answered 200 while the broker is unavailable; ``/readyz`` reports the broker."""
    multi_process.environment["MELDWATCH_BROKER_URL"] = "redis://127.0.0.1:1/0"
    multi_process.start("web")
    eventually(lambda: multi_process.status("/healthz") == 200, 20)
    connection = multi_process.meld.world.add()

    multi_process.send_webhook(connection.id)

    eventually(lambda: len(multi_process.webhooks()) == 1, message="the webhook")
    readiness = CLIENT.get(multi_process.url + "/readyz", timeout=10).json()
    assert "broker" in readiness["parts"]
    assert readiness["parts"]["broker"] != "ok"


def test_several_workers_and_clocks_run_concurrently(multi_process: Deployment) -> None:
    """Two workers and two clocks under load: one read per connection at a time, and a feed without gaps."""
    multi_process.start_all()
    multi_process.start("worker")
    multi_process.start("clock")

    run_random_activity(multi_process.meld, 6, 25)

    eventually(lambda: is_caught_up(multi_process), 60, message="processing of all webhooks")
    assert has_gapless_feed(multi_process)
    assert count_overlapping_reads(multi_process.meld) == 0


def count_overlapping_reads(meld: Simulator) -> int:
    """Return the number of reads that began before the previous read of the same connection ended."""
    reads: dict[str, list[tuple[float, float]]] = {}
    for read in meld.reads.all():
        if read.connection_id is not None and read.ended_at is not None:
            reads.setdefault(read.connection_id, []).append((read.began_at.timestamp(), read.ended_at.timestamp()))
    return sum(later[0] < earlier[1] for spans in map(sorted, reads.values()) for earlier, later in pairwise(spans))


def test_the_mirror_recovers_after_a_meld_outage(embedded: Deployment) -> None:
    """Webhooks arrive while every read fails; when Meld answers again, the mirror becomes correct automatically."""
    embedded.start_all()
    meld = embedded.meld
    CLIENT.post(meld.url + "/sim/faults", json={"failing": 1.0}).raise_for_status()
    connections = [meld.world.add() for _ in range(15)]
    for connection in connections:
        meld.send_webhooks(meld.world.break_connection(connection.id))
    eventually(lambda: len(embedded.webhooks()) == 15, message="the webhooks")
    eventually(lambda: "reads paused" in embedded.logs() or "pause" in embedded.logs())

    CLIENT.post(meld.url + "/sim/faults", json={}).raise_for_status()

    eventually(lambda: len(embedded.mirror()) == 15 and embedded.mirror_matches_meld(), 60, message="the mirror")


@pytest.mark.parametrize("name", ["WEBHOOK_URLS", "WEBHOOK_SECRETS", "MELD_API_KEY"])
def test_a_missing_setting_prevents_the_start(embedded: Deployment, name: str) -> None:
    """``up`` exits with code 2 and prints one line that names the setting."""
    ended = embedded.run("up", **{f"MELDWATCH_{name}": ""})

    assert ended.returncode == 2
    assert ended.stderr.strip().count("\n") == 0
    assert f"MELDWATCH_{name}" in ended.stderr


@pytest.mark.parametrize("command", ["web", "worker", "clock"])
def test_separate_processes_refuse_the_embedded_set_up(embedded: Deployment, command: str) -> None:
    """On SQLite with the in-memory broker ``web``, ``worker`` and ``clock`` exit and name the setting."""
    ended = embedded.run(command)

    assert ended.returncode == 2
    assert "MELDWATCH_DATABASE_URL" in ended.stderr


def test_a_restart_keeps_the_generated_admin_token(embedded: Deployment) -> None:
    """``up`` generates a missing token, prints it once, and stores it in a file that only its owner can read."""
    embedded.environment["MELDWATCH_ADMIN_TOKENS"] = ""
    for _ in range(2):
        process = embedded.start("up")
        embedded.wait_until_ready()
        assert stop_process(process, signal.SIGTERM) == 0

    (path,) = embedded.folder.glob("*.admin-token")
    token = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert embedded.logs().count(token) == 1
