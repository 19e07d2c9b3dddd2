import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest
from starlette.testclient import TestClient

from runtime.clock import utcnow
from runtime.database import Database
from schemas.tables import TaskLeaseRow
from service.feed.notifier import FeedNotifier
from service.monitoring.health import Health
from tests.service.conftest import Api, Parts
from tests.service.fakes import HandClock
from tests.support import row_factory

POOL = 3
ALL = {"database", "migrations", "broker", "clock", "backlog", "meld"}


@pytest.fixture
def running(api: Api) -> Api:
    """The API beside a running clock: ready."""
    row_factory.store(api.database, TaskLeaseRow(name="clock", holder="x", until=utcnow(), ran_at=utcnow()))
    return api


def test_the_process_lives(away: Database) -> None:
    """Whatever is away, and without a token."""
    response = TestClient(Parts(database=away).app(FeedNotifier(database=away))).get("/healthz")

    assert (response.status_code, response.json()) == (200, {"status": "alive"})


def test_ready_names_all_parts(running: Api) -> None:
    """200, and each part is well."""
    response = running.anonymous.get("/readyz")

    assert (200, {"status": "ready", "parts": dict.fromkeys(ALL, "ok")}) == (response.status_code, response.json())


def test_not_ready_names_the_failing_parts(running: Api) -> None:
    """503 as a problem: what is wrong with which part, and what is well."""
    running.broker.is_away = True

    response = running.anonymous.get("/readyz")

    body = response.json()
    expected = {**dict.fromkeys(ALL, "ok"), "broker": "The broker does not answer."}
    assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")
    assert ("broker: The broker does not answer.", expected) == (body["detail"], body["parts"])


def test_a_missing_clock_is_told(api: Api) -> None:
    """The part is named in the detail, with what to look for."""
    response = api.anonymous.get("/readyz")

    assert (response.status_code, response.json()["detail"].startswith("clock: No clock has run")) == (503, True)


def test_recovery_shows(api: Api) -> None:
    """As soon as the remembered answers are too old."""
    before = api.anonymous.get("/readyz").status_code
    row_factory.store(api.database, TaskLeaseRow(name="clock", holder="x", until=utcnow(), ran_at=utcnow()))
    api.clock.move(2)

    assert (before, api.anonymous.get("/readyz").status_code) == (503, 200)


def test_the_broker_is_asked_once_in_a_while(running: Api) -> None:
    """However often readiness is asked."""
    for seconds in (0, 0.5, 1, 0.5, 1.9):
        running.clock.move(seconds)
        running.anonymous.get("/readyz")

    assert running.broker.pings == 2


def test_a_database_that_is_away_is_named(away: Database) -> None:
    """And nothing else is, for nothing else is known."""
    client = TestClient(Parts(database=away).app(FeedNotifier(database=away)))

    response = client.get("/readyz")

    assert (response.status_code, response.json()["detail"].startswith("database: ")) == (503, True)
    assert {"ok"} == {response.json()["parts"]["broker"]}


def test_readiness_never_hangs(sqlite_url: str) -> None:
    """A broker that never answers is named within little more than two seconds, also to many at once."""
    never = threading.Event()
    database = Database(sqlite_url)
    parts = Parts(database=database)
    parts.broker.ping = never.wait  # type: ignore[method-assign, assignment]
    began = time.monotonic()

    with TestClient(parts.app(FeedNotifier(database=database))) as client:
        body = client.get("/readyz").json()
    seconds = time.monotonic() - began
    threads = [thread for thread in threading.enumerate() if thread.name == "probe"]
    never.set()
    database.close()

    assert (body["parts"]["broker"], len(threads)) == ("No answer within 2 s.", 1)
    assert 2 <= seconds < 4


def test_a_hanging_database_is_named(sqlite_url: str) -> None:
    """One that takes a connection and never answers is late itself; what it would have told is unknown."""
    database = Database(sqlite_url, pool_size=POOL)
    health = Health(database=database, clock=HandClock(), ping_broker=lambda: None)
    with closing(database), ThreadPoolExecutor(1) as pool, ExitStack() as held:
        # Every connection of the pool is in use: the next one waits.
        for _ in range(POOL):
            held.enter_context(database.read()).connection()
        said = pool.submit(asyncio.run, health.check()).result()

    assert said.pop("database") == "No answer within 2 s."
    assert said == {
        "migrations": "unknown",
        "clock": "unknown",
        "backlog": "unknown",
        "meld": "unknown",
        "broker": "ok",
    }
