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
from service.monitoring.health_endpoints import HealthEndpoints
from tests.service.conftest import Api, AppFactory
from tests.service.fakes import HandClock
from tests.support import row_factory

POOL = 3
ALL = {"database", "migrations", "broker", "clock", "backlog", "meld"}


@pytest.fixture
def running(api: Api) -> Api:
    """The API with a scheduler heartbeat: ready."""
    row_factory.store(api.database, TaskLeaseRow(name="clock", holder="x", until=utcnow(), ran_at=utcnow()))
    return api


def test_the_process_lives(unreachable_database: Database) -> None:
    """Whatever is out of reach, and without a token."""
    response = TestClient(
        AppFactory(database=unreachable_database).app(FeedNotifier(database=unreachable_database))
    ).get("/healthz")

    assert (response.status_code, response.json()) == (200, {"status": "alive"})


def test_ready_names_all_checks(running: Api) -> None:
    """200, and each check succeeded."""
    response = running.anonymous.get("/readyz")

    assert (200, {"status": "ready", "parts": dict.fromkeys(ALL, "ok")}) == (response.status_code, response.json())


def test_not_ready_names_the_failed_checks(running: Api) -> None:
    """503 as a problem, with the result of each check."""
    running.broker.is_away = True

    response = running.anonymous.get("/readyz")

    body = response.json()
    expected = {**dict.fromkeys(ALL, "ok"), "broker": "The broker does not answer."}
    assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")
    assert ("broker: The broker does not answer.", expected) == (body["detail"], body["parts"])


def test_a_missing_scheduler_is_named(api: Api) -> None:
    """The detail names the check, with what to do."""
    response = api.anonymous.get("/readyz")

    assert (response.status_code, response.json()["detail"].startswith("clock: No clock has run")) == (503, True)


def test_recovery_shows(api: Api) -> None:
    """As soon as the cached results are too old."""
    before = api.anonymous.get("/readyz").status_code
    row_factory.store(api.database, TaskLeaseRow(name="clock", holder="x", until=utcnow(), ran_at=utcnow()))
    api.clock.move(2)

    assert (before, api.anonymous.get("/readyz").status_code) == (503, 200)


def test_the_result_of_the_broker_is_cached(running: Api) -> None:
    """However often readiness is requested."""
    for seconds in (0, 0.5, 1, 0.5, 1.9):
        running.clock.move(seconds)
        running.anonymous.get("/readyz")

    assert running.broker.pings == 2


def test_an_unreachable_database_is_named(unreachable_database: Database) -> None:
    """Nothing else is named, because nothing else is known."""
    client = TestClient(AppFactory(database=unreachable_database).app(FeedNotifier(database=unreachable_database)))

    response = client.get("/readyz")

    assert (response.status_code, response.json()["detail"].startswith("database: ")) == (503, True)
    assert {"ok"} == {response.json()["parts"]["broker"]}


def test_readiness_never_hangs(sqlite_url: str) -> None:
    """A broker that never answers is named within little more than two seconds."""
    never = threading.Event()
    database = Database(sqlite_url)
    parts = AppFactory(database=database)
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
    """Its check times out; the checks that need it are unknown."""
    database = Database(sqlite_url, pool_size=POOL)
    health = HealthEndpoints(database=database, clock=HandClock(), ping_broker=lambda: None)
    with closing(database), ThreadPoolExecutor(1) as pool, ExitStack() as held:
        # Every connection of the pool is in use: the next one waits.
        for _ in range(POOL):
            held.enter_context(database.read()).connection()
        results = pool.submit(asyncio.run, health.check()).result()

    assert results.pop("database") == "No answer within 2 s."
    assert results == {
        "migrations": "unknown",
        "clock": "unknown",
        "backlog": "unknown",
        "meld": "unknown",
        "broker": "ok",
    }
