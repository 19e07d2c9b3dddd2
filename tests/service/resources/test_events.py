import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Thread
from typing import Any

import httpx2
import pytest
import uvicorn
from sqlalchemy import update
from sqlmodel import col

from runtime.database import Database
from schemas.connection_changes import PrimaryDuplicateMoved, StatusReasonChanged
from schemas.tables import FeedCounterRow
from tests.service.conftest import READ, Api
from tests.support import row_factory
from tests.support.polling import eventually

MOVED = PrimaryDuplicateMoved.type
BEARER = {"Authorization": f"Bearer {READ}"}


def positions(page: dict[str, Any]) -> list[int]:
    """Return the positions of a page."""
    return [event["position"] for event in page["events"]]


def emit(database: Database, connection_id: str, sequence: int) -> int:
    """Append an event as workers do: the position is taken last, under the lock of the counter."""
    with database.write() as session:
        feed = update(FeedCounterRow).where(col(FeedCounterRow.name) == "feed").values(value=FeedCounterRow.value + 1)
        position = session.exec(feed.returning(col(FeedCounterRow.value))).scalar_one()
        session.add(row_factory.event(position, connection_id, sequence=sequence))
        return int(position)


def test_an_event_is_a_cloud_event(api: Api) -> None:
    """The structured JSON of the contract."""
    row_factory.store(api.database, row_factory.event(7, "c1", id="uuid", sequence=3))

    event = api.reader.get("/api/events").json()["events"][0]

    expected = {
        "specversion": "1.0",
        "id": "uuid",
        "source": "urn:meld:account:acct",
        "type": "connection.status_changed",
        "subject": "c1",
        "time": "2026-01-02T03:04:05.678901Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:meldwatch:schema:connection.status_changed:1",
        "position": 7,
        "sequence": "00000003",
        "data": row_factory.event(7, "c1").data,
    }
    assert expected == event


def test_the_feed_is_paged_by_position(api: Api) -> None:
    """In order; at the end ``next`` keeps its value."""
    row_factory.store(api.database, *(row_factory.event(n) for n in range(1, 6)))

    pages, after = [], 0
    for _ in range(4):
        page = api.reader.get("/api/events", params={"after": after, "limit": 2}).json()
        after = page["next"]
        pages.append((positions(page), after))

    assert pages == [([1, 2], 2), ([3, 4], 4), ([5], 5), ([], 5)]


@pytest.mark.parametrize("after", [0, 7, 2**63 - 1])
def test_next_equals_after_on_an_empty_page(api: Api, after: int) -> None:
    """Also far behind the end."""
    assert {"events": [], "next": after} == api.reader.get("/api/events", params={"after": after}).json()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"type": MOVED}, [2, 4]),
        ({"type": StatusReasonChanged.type}, []),
        ({"connection_id": "c2"}, [3, 4]),
        ({"connection_id": "c2", "type": MOVED}, [4]),
        ({"connection_id": "c2", "after": 3}, [4]),
    ],
)
def test_filters_keep_the_order(api: Api, query: dict[str, Any], expected: list[int]) -> None:
    """``next`` is the last position on the page, or ``after`` if the page is empty."""
    row_factory.store(
        api.database,
        row_factory.event(1),
        row_factory.event(2, type=MOVED),
        row_factory.event(3, "c2"),
        row_factory.event(4, "c2", type=MOVED),
    )

    page = api.reader.get("/api/events", params=query).json()

    assert (expected, expected[-1] if expected else 0) == (positions(page), page["next"])


def test_concurrent_writes_cause_no_gap(api: Api) -> None:
    """Readers with and without a filter get every event once, in order."""
    writers, each = 4, 15

    def write(writer: int) -> None:
        for sequence in range(1, each + 1):
            emit(api.database, f"c{writer}", sequence)

    def follow(filters: dict[str, Any], total: int) -> list[int]:
        seen: list[int] = []
        after = 0
        while len(seen) < total:
            page = api.reader.get("/api/events", params={"after": after, "limit": 3, "wait": 5, **filters}).json()
            assert page["events"], "no event for 5 s"
            seen += positions(page)
            after = page["next"]
        return seen

    with ThreadPoolExecutor(writers + 2) as pool:
        all_of_them = pool.submit(follow, {}, writers * each)
        some_of_them = pool.submit(follow, {"connection_id": "c2"}, each)
        for written in [pool.submit(write, writer) for writer in range(writers)]:
            written.result()

        assert list(range(1, writers * each + 1)) == all_of_them.result()
        assert sorted(set(some_of_them.result())) == some_of_them.result()


def test_a_long_poll_returns_the_next_event(api: Api) -> None:
    """Soon after its commit, long before the time is up."""
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(api.reader.get, "/api/events", params={"wait": 30})
        eventually(lambda: api.feed._waiters)
        row_factory.store(api.database, row_factory.event(1))
        page = polling.result(timeout=5).json()

    assert (positions(page), page["next"]) == ([1], 1)


def test_a_long_poll_waits_for_a_matching_event(api: Api) -> None:
    """Events that do not match neither end the wait nor move ``next``."""
    row_factory.store(api.database, row_factory.event(1))
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(api.reader.get, "/api/events", params={"wait": 30, "connection_id": "c2"})
        eventually(lambda: any(waiter.after == 1 for waiter in api.feed._waiters))
        row_factory.store(api.database, row_factory.event(2))
        eventually(lambda: any(waiter.after == 2 for waiter in api.feed._waiters))
        row_factory.store(api.database, row_factory.event(3, "c2"))
        page = polling.result(timeout=5).json()

    assert positions(page) == [3]


def test_a_long_poll_ends_when_the_time_is_up(api: Api) -> None:
    """The page is empty, and ``next`` is unchanged."""
    began = time.monotonic()

    page = api.reader.get("/api/events", params={"wait": 0.3, "after": 4}).json()

    assert (page, 0.3 <= time.monotonic() - began < 5) == ({"events": [], "next": 4}, True)


def test_a_hundred_long_polls_hold_no_thread(api: Api) -> None:
    """Other requests are answered at once."""

    async def scenario() -> tuple[int, float]:
        transport = httpx2.ASGITransport(app=api.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://meldwatch", headers=BEARER) as client:
            polls = [asyncio.create_task(client.get("/api/events", params={"wait": 30})) for _ in range(100)]
            await asyncio.to_thread(eventually, lambda: len(api.feed._waiters) == 100)
            began = time.monotonic()
            status = (await client.get("/api/connections")).status_code
            seconds = time.monotonic() - began
            api.feed.close()
            await asyncio.gather(*polls)
            return status, seconds

    status, seconds = asyncio.run(scenario())

    assert (status, seconds < 2) == (200, True)


def test_a_shutdown_waits_for_no_long_poll(api: Api) -> None:
    """When the feed is closed, the server ends at once, and each waiting reader gets an answer."""
    server = uvicorn.Server(uvicorn.Config(api.app, host="127.0.0.1", port=0, log_config=None))
    thread = Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]

    with ThreadPoolExecutor(1) as pool, closing(httpx2.Client(headers=BEARER, timeout=40)) as client:
        polling = pool.submit(client.get, f"http://127.0.0.1:{port}/api/events?wait=30&after=9")
        eventually(lambda: api.feed._waiters)
        server.should_exit = True
        api.feed.close()
        page = polling.result(timeout=5).json()
    thread.join(5)

    assert (page, thread.is_alive()) == ({"events": [], "next": 9}, False)
