"""What dies, dies by SIGKILL; what is lost, is really lost."""

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
"""``MELD_TIMEOUT_SECONDS`` of these set-ups, which is 2, and 10."""


def answered(meld: Simulator) -> set[str]:
    """Return the event ids that our side answered with 200, as Meld knows them."""
    return {
        webhook.event.event_id
        for webhook in meld.outbox.webhooks()
        if any(attempt.status == 200 for attempt in list(webhook.attempts))
    }


def storm(meld: Simulator, seconds: float, rate: float) -> None:
    """Let Meld's world live for a while, at so many acts a second."""
    CLIENT.post(meld.url + "/sim/life", json={"rate": rate}).raise_for_status()
    deadline = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > deadline, seconds + 5)
    CLIENT.post(meld.url + "/sim/life", json={"rate": 0}).raise_for_status()


def is_all_there(deployment: Deployment) -> bool:
    """Return whether each webhook that was answered 200 is stored and seen to, and the mirror is true."""
    stored = {webhook["event_id"]: webhook["state"] for webhook in deployment.webhooks()}
    return answered(deployment.meld) <= set(stored) and "pending" not in stored.values() and deployment.mirror_matches_meld()


def is_gapless(deployment: Deployment) -> bool:
    """Return whether positions grow, and every connection's sequence has neither gap nor repeat."""
    events = deployment.events()
    by_subject: dict[str, list[int]] = {}
    for event in events:
        by_subject.setdefault(event["subject"], []).append(int(event["sequence"]))
    positions = [event["position"] for event in events]
    ids = {event["id"] for event in events}
    in_order = all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_subject.values())
    return positions == sorted(set(positions)) and len(ids) == len(events) and in_order


def test_a_worker_killed_during_a_read_is_replaced(many: Deployment) -> None:
    """SIGKILL while a read is under way: when the lease ends, another worker reads, and nothing is lost."""
    _web, worker, _clock = many.start_all()
    connection = many.meld.world.add()
    many.script_reads(connection.id, {"delay": 1.5})
    many.send_webhook(connection.id)
    eventually(lambda: many.reads(connection.id) == 1, message="the read under way")

    worker.kill()
    many.start("worker")

    eventually(lambda: connection.id in many.mirror(), LEASE_SECONDS + 20, message="the mirror")
    eventually(many.has_no_pending_webhooks, message="the webhook processed")


def test_a_web_process_killed_after_its_answer_loses_nothing(many: Deployment) -> None:
    """SIGKILL of web processes in a storm of webhooks: what was answered 200 is stored, what was not comes again."""
    many.start_all()
    ended = threading.Event()

    def kill_again_and_again() -> None:
        chance = random.Random(1)
        while not ended.is_set():
            web = many.processes[0]
            time.sleep(chance.uniform(0.3, 1.2))
            web.kill()
            web.wait()
            many.processes[0] = many.start("web")
            many.processes.pop()
            many.wait_until_ready()

    killer = threading.Thread(target=kill_again_and_again)
    killer.start()
    storm(many.meld, 8, 15)
    ended.set()
    killer.join()

    eventually(lambda: is_all_there(many), 60, message="everything answered is stored and processed")
    assert is_gapless(many)


def test_the_embedded_process_killed_again_and_again_loses_nothing(embedded: Deployment) -> None:
    """SIGKILL of the whole service in a storm, again and again: nothing answered is lost, nothing told twice."""
    embedded.start_all()
    life = threading.Thread(target=storm, args=(embedded.meld, 15, 15))
    life.start()
    chance = random.Random(2)

    kills = 0
    while life.is_alive():
        time.sleep(chance.uniform(0.2, 1.0))
        embedded.processes[-1].kill()
        embedded.processes[-1].wait()
        kills += 1
        embedded.start("up")
        embedded.wait_until_ready()
    life.join()

    eventually(lambda: is_all_there(embedded), 90, message="everything answered is stored and processed")
    assert is_gapless(embedded)
    assert kills


def test_a_broker_that_loses_everything_costs_seconds(many: Deployment) -> None:
    """FLUSHALL while messages wait and no worker runs: the clock calls for what is due."""
    many.start("web")
    many.start("clock")
    connections = [many.meld.world.add() for _ in range(20)]
    for connection in connections:
        many.send_webhook(connection.id)
    eventually(lambda: many.status("/healthz") == 200, 20)
    eventually(lambda: len(many.webhooks()) == 20, 20, message="the webhooks")

    redis.Redis.from_url(many.environment["MELDWATCH_BROKER_URL"]).flushdb()
    many.start("worker")

    eventually(lambda: len(many.mirror()) == 20, 60, message="the mirror")


def test_a_broker_that_is_away_costs_no_webhook(many: Deployment) -> None:
    """Webhooks are answered 200 while the broker does not answer; readiness names it."""
    many.environment["MELDWATCH_BROKER_URL"] = "redis://127.0.0.1:1/0"
    many.start("web")
    eventually(lambda: many.status("/healthz") == 200, 20)
    connection = many.meld.world.add()

    many.send_webhook(connection.id)

    eventually(lambda: len(many.webhooks()) == 1, message="the webhook")
    parts = CLIENT.get(many.url + "/readyz", timeout=10).json()
    assert "broker" in parts["parts"]
    assert parts["parts"]["broker"] != "ok"


def test_several_of_each_process_at_once(many: Deployment) -> None:
    """Two workers and two clocks beside each other in a storm: one read per connection at a time, a gapless feed."""
    many.start_all()
    many.start("worker")
    many.start("clock")

    storm(many.meld, 6, 25)

    eventually(lambda: is_all_there(many), 60, message="everything processed, and the mirror true")
    assert is_gapless(many)
    assert overlapping_reads(many.meld) == 0


def overlapping_reads(meld: Simulator) -> int:
    """Return how many reads of a connection began before the one before had ended."""
    reads: dict[str, list[tuple[float, float]]] = {}
    for read in meld.reads.all():
        if read.connection_id is not None and read.ended_at is not None:
            reads.setdefault(read.connection_id, []).append((read.began_at.timestamp(), read.ended_at.timestamp()))
    return sum(later[0] < earlier[1] for spans in map(sorted, reads.values()) for earlier, later in pairwise(spans))


def test_a_meld_that_was_away_is_caught_up_with(embedded: Deployment) -> None:
    """Webhooks come in while every read fails; when Meld answers again, everything becomes true by itself."""
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
def test_a_process_without_what_it_needs_does_not_start(embedded: Deployment, name: str) -> None:
    """Exit code 2 and one line that names the setting."""
    ended = embedded.run("up", **{f"MELDWATCH_{name}": ""})

    assert ended.returncode == 2
    assert ended.stderr.strip().count("\n") == 0
    assert f"MELDWATCH_{name}" in ended.stderr


@pytest.mark.parametrize("command", ["web", "worker", "clock"])
def test_one_of_several_processes_refuses_a_database_for_one(embedded: Deployment, command: str) -> None:
    """On SQLite, or with the broker inside a process, web, worker and clock say what to set instead."""
    ended = embedded.run(command)

    assert ended.returncode == 2
    assert "MELDWATCH_DATABASE_URL" in ended.stderr


def test_a_second_start_keeps_the_token_that_up_made(embedded: Deployment) -> None:
    """``up`` without a token makes one, prints it once, and keeps it beside the database for its owner alone."""
    embedded.environment["MELDWATCH_ADMIN_TOKENS"] = ""
    for _ in range(2):
        process = embedded.start("up")
        embedded.wait_until_ready()
        assert stop_process(process, signal.SIGTERM) == 0

    (kept,) = embedded.folder.glob("*.admin-token")
    token = kept.read_text().strip()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert embedded.logs().count(token) == 1
