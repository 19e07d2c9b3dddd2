"""The feed as its readers receive it, from the real program on real servers."""

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

MAX_DELAY_SECONDS = 1.0
"""The guaranteed delay from a commit to the readers of another process. The tests compare the median delay with it,
because other tests on the same machine can slow down single events."""


def link_connection(deployment: Deployment) -> str:
    """Link a connection, and wait until its webhooks are processed."""
    connection = deployment.meld.world.start()
    deployment.meld.send_webhooks(deployment.meld.world.complete(connection.id))
    eventually(
        lambda: deployment.mirror() and deployment.mirror_matches_meld() and deployment.has_no_pending_webhooks(), 20
    )
    return connection.id


def change_connection(deployment: Deployment, connection_id: str) -> None:
    """Break the connection if it is healthy, heal it otherwise."""
    world = deployment.meld.world
    is_healthy = world.truth(connection_id)["status"] == "ACTIVE"
    deployment.meld.send_webhooks((world.break_connection if is_healthy else world.heal)(connection_id))


def test_a_stream_receives_events_within_a_second(deployment: Deployment) -> None:
    """On every set-up, even if another process commits the event; measured from Meld's answer."""
    deployment.start_all()
    id_ = link_connection(deployment)
    before = len(deployment.events())
    with closing(SseReader(deployment.url, TOKEN)) as reader:
        reader.wait_for_begin()
        delays = [measure_delay(deployment, id_, lambda count=count: reader.wait_for(count)) for count in range(1, 6)]  # type: ignore[misc]

        assert reader.events == deployment.events()[before:]
    assert median(delays) < MAX_DELAY_SECONDS


def measure_delay(deployment: Deployment, connection_id: str, wait: Callable[[], object]) -> float:
    """Change a connection, and return the delay of its event after Meld's answer."""
    change_connection(deployment, connection_id)
    wait()
    received_at = time.time()
    event_time = str(deployment.events()[-1]["time"])
    return received_at - datetime.fromisoformat(event_time).timestamp()


def test_a_long_poll_returns_when_an_event_is_committed(multi_process: Deployment) -> None:
    """Across processes, long before its timeout."""
    multi_process.start_all()
    id_ = link_connection(multi_process)
    answers: list[Any] = []
    after = len(multi_process.events())
    poll = threading.Thread(target=lambda: answers.append(multi_process.get("/api/events", after=after, wait=30)))
    poll.start()

    assert measure_delay(multi_process, id_, poll.join) < 10
    assert len(answers[0]["events"]) == 1


def test_readers_survive_a_lost_database_connection(multi_process: Deployment, postgres_url: str) -> None:
    """PostgreSQL terminates the listening connection repeatedly: every event arrives without a long delay."""
    multi_process.start_all()
    id_ = link_connection(multi_process)
    with closing(SseReader(multi_process.url, TOKEN)) as reader:
        reader.wait_for_begin()
        delays = []
        for count in range(1, 4):
            terminate_listener(postgres_url)
            delays.append(measure_delay(multi_process, id_, lambda count=count: reader.wait_for(count)))  # type: ignore[misc]

        assert reader.positions == [event["position"] for event in multi_process.events()][-3:]
    assert median(delays) < MAX_DELAY_SECONDS


def terminate_listener(postgres_url: str) -> None:
    with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
        listening = "FROM pg_stat_activity WHERE datname = current_database() AND query = %s"
        name = [f'LISTEN "{FEED_CHANNEL}"']
        eventually(
            lambda: connection.execute(f"SELECT pid {listening}", name).fetchall(), message="a listening connection"
        )
        connection.execute(f"SELECT pg_terminate_backend(pid) {listening}", name)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_reader_resumes_after_a_restart(deployment: Deployment, signum: signal.Signals) -> None:
    """On every set-up: a reader that reconnects with its last id receives every later event exactly once."""
    server, *_others = deployment.start_all()
    id_ = link_connection(deployment)
    with closing(SseReader(deployment.url, TOKEN, after=0)) as before:
        before.wait_for(len(deployment.events()))
        server.send_signal(signum)
        server.wait(10)
        before.wait_for_end()
    change_connection(deployment, id_)
    deployment.start("up" if deployment.is_embedded else "web")
    deployment.wait_until_ready()
    eventually(deployment.mirror_matches_meld, 20, message="a mirror that matches Meld")
    with closing(SseReader(deployment.url, TOKEN, last_event_id=before.last_id)) as after:
        change_connection(deployment, id_)
        eventually(lambda: len(deployment.events()) >= len(before.events) + 2, 20, message="both events")
        events = deployment.events()
        after.wait_for(len(events) - len(before.events))

        assert before.events + after.events == events
    assert before.has_ended == (signum == signal.SIGTERM)


def test_open_streams_do_not_delay_shutdown(deployment: Deployment) -> None:
    """On every set-up the process exits in time with code 0, and the responses of its readers are complete."""
    server, *_others = deployment.start_all()
    readers = [SseReader(deployment.url, TOKEN) for _ in range(10)]
    for reader in readers:
        reader.wait_for_begin()

    code = stop_process(server, signal.SIGTERM)
    for reader in readers:
        reader.wait_for_end()
        reader.close()

    assert (code, [reader.has_ended for reader in readers]) == (0, [True] * 10)
