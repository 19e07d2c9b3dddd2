"""The feed as its readers have it, from the real program on real servers."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from statistics import median
from typing import Any

import psycopg
import pytest

from schemas.message_names import FEED_CHANNEL
from tests.end_to_end.deployment import TOKEN, Deployment, stop_process
from tests.support.polling import eventually
from tests.support.sse_reader import SseReader

SOON = 1.0
"""The bound that is promised from a commit to the readers of another process. The usual delay is held against it:
a machine that is busy with other tests lets everything wait."""


def linked(deployment: Deployment) -> str:
    """Link a connection, and wait until all is told of it."""
    connection = deployment.meld.world.start()
    deployment.meld.send_webhooks(deployment.meld.world.complete(connection.id))
    eventually(lambda: deployment.mirror() and deployment.mirror_matches_meld() and deployment.has_no_pending_webhooks(), 20)
    return connection.id


def change(deployment: Deployment, connection_id: str) -> None:
    """Break the connection, or heal it, whichever it needs."""
    world = deployment.meld.world
    is_well = world.truth(connection_id)["status"] == "ACTIVE"
    deployment.meld.send_webhooks((world.break_connection if is_well else world.heal)(connection_id))


def test_a_stream_has_each_event_within_a_second(deployment: Deployment) -> None:
    """On every set-up, also where another process commits it; counted from when Meld's answer was there."""
    deployment.start_all()
    id_ = linked(deployment)
    before = len(deployment.events())
    with closing(SseReader(deployment.url, TOKEN)) as reader:
        reader.wait_for_begin()
        delays = [delay(deployment, id_, lambda count=count: reader.wait_for(count)) for count in range(1, 6)]  # type: ignore[misc]

        assert reader.events == deployment.events()[before:]
    assert median(delays) < SOON


def delay(deployment: Deployment, connection_id: str, wait: Callable[[], object]) -> float:
    """Change a connection, and return how long its event took, from Meld's answer on."""
    change(deployment, connection_id)
    wait()
    at = time.time()
    told = str(deployment.events()[-1]["time"])
    return at - datetime.fromisoformat(told).timestamp()


def test_a_long_poll_is_woken_too(many: Deployment) -> None:
    """Across processes, long before its time is up."""
    many.start_all()
    id_ = linked(many)
    answers: list[Any] = []
    after = len(many.events())
    poll = threading.Thread(target=lambda: answers.append(many.get("/api/events", after=after, wait=30)))
    poll.start()

    assert delay(many, id_, poll.join) < 10
    assert len(answers[0]["events"]) == 1


def test_readers_outlive_a_lost_connection_to_the_database(many: Deployment, postgres_url: str) -> None:
    """PostgreSQL ends the connection that listens, again and again: every event comes, and soon."""
    many.start_all()
    id_ = linked(many)
    with closing(SseReader(many.url, TOKEN)) as reader:
        reader.wait_for_begin()
        delays = []
        for count in range(1, 4):
            cut_listener(postgres_url)
            delays.append(delay(many, id_, lambda count=count: reader.wait_for(count)))  # type: ignore[misc]

        assert reader.positions == [event["position"] for event in many.events()][-3:]
    assert median(delays) < SOON


def cut_listener(postgres_url: str) -> None:
    with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
        listening = "FROM pg_stat_activity WHERE datname = current_database() AND query = %s"
        name = [f'LISTEN "{FEED_CHANNEL}"']
        eventually(lambda: connection.execute(f"SELECT pid {listening}", name).fetchall(), message="who listens")
        connection.execute(f"SELECT pg_terminate_backend(pid) {listening}", name)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_costs_a_reader_nothing(deployment: Deployment, signum: signal.Signals) -> None:
    """On every set-up: who comes back with the last id misses nothing and sees nothing twice."""
    server, *_others = deployment.start_all()
    id_ = linked(deployment)
    with closing(SseReader(deployment.url, TOKEN, after=0)) as before:
        before.wait_for(len(deployment.events()))
        server.send_signal(signum)
        server.wait(10)
        before.wait_for_end()
    change(deployment, id_)
    deployment.start("up" if deployment.is_embedded else "web")
    deployment.wait_until_ready()
    eventually(deployment.mirror_matches_meld, 20, message="the true mirror")
    with closing(SseReader(deployment.url, TOKEN, last_event_id=before.last_id)) as after:
        change(deployment, id_)
        eventually(lambda: len(deployment.events()) >= len(before.events) + 2, 20, message="both events")
        events = deployment.events()
        after.wait_for(len(events) - len(before.events))

        assert before.events + after.events == events
    assert before.has_ended == (signum == signal.SIGTERM)


def test_open_streams_do_not_keep_a_process(deployment: Deployment) -> None:
    """On every set-up it ends in time and with success, and its readers' answers end as answers should."""
    server, *_others = deployment.start_all()
    readers = [SseReader(deployment.url, TOKEN) for _ in range(10)]
    for reader in readers:
        reader.wait_for_begin()

    code = stop_process(server, signal.SIGTERM)
    for reader in readers:
        reader.wait_for_end()
        reader.close()

    assert (code, [reader.has_ended for reader in readers]) == (0, [True] * 10)
