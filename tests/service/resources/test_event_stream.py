import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meldwatch.process.http_server import GRACE_SECONDS
from runtime.database import Database
from schemas.api_queries import MAX_POSITION
from schemas.connection_changes import PrimaryDuplicateMoved
from schemas.events import Event
from service.resources.event_stream import PAGE_SIZE, encode_event, encode_heartbeat
from tests.service.conftest import READ, Api
from tests.service.feed.test_notifier import counting
from tests.service.resources.feed_server import Service
from tests.service.resources.test_events import emit
from tests.support import row_factory
from tests.support.polling import eventually

MOVED = PrimaryDuplicateMoved.type
LONG = 60.0


@pytest.fixture
def serve(database: Database) -> Iterator[Callable[..., Service]]:
    """Return a factory of services."""
    with ExitStack() as stack:

        def serve(**values: Any) -> Service:
            service = Service(database, **values)
            stack.callback(service.close)
            return service

        yield serve


@pytest.fixture
def service(serve: Callable[..., Service]) -> Service:
    """A service with default settings."""
    return serve()


def test_an_event_equals_that_of_the_list(service: Service) -> None:
    """Field by field; the id of the block is its position."""
    row_factory.store(service.database, row_factory.event(7, "c1", id="uuid", sequence=3))

    reader = service.read(after=0)
    reader.wait_for(1)

    assert service.events() == reader.events
    assert reader.last_id == "7"
    assert reader.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reader.headers["cache-control"] == "no-store"
    assert "content-length" not in reader.headers


def test_without_a_position_it_begins_now(service: Service) -> None:
    """Earlier events are not sent; the first block carries the present position."""
    row_factory.store(service.database, row_factory.event(1), row_factory.event(2))

    reader = service.read()
    begin = reader.last_id
    row_factory.store(service.database, row_factory.event(3))

    assert (begin, reader.wait_for(1)) == ("2", [3])


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ({"after": 0}, [1, 2, 3]),
        ({"after": 2}, [3]),
        ({"last_event_id": "1"}, [2, 3]),
        ({"last_event_id": "2", "after": 0}, [3]),
        ({"last_event_id": "", "after": 1}, [2, 3]),
    ],
)
def test_a_stream_resumes_from_a_position(service: Service, position: dict[str, Any], expected: list[int]) -> None:
    """``Last-Event-ID`` overrides ``after``: a browser that reconnects sends both."""
    row_factory.store(service.database, *(row_factory.event(n) for n in range(1, 4)))

    assert service.read(**position).wait_for(len(expected)) == expected


@pytest.mark.parametrize("given", ["x", "-1", "1.0", "٣", str(MAX_POSITION + 1), "9" * 5000])
def test_an_invalid_position_is_refused(service: Service, given: str) -> None:
    """The error names the header and says what to do."""
    with httpx2.Client() as client:
        headers = {"Authorization": f"Bearer {READ}", "Last-Event-ID": given.encode()}
        answer = client.get(service.server.url + "/api/events/stream", headers=headers)

    assert (answer.status_code, "Last-Event-ID" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"type": MOVED}, [2, 4]),
        ({"connection_id": "c2"}, [3, 4]),
        ({"type": MOVED, "connection_id": "c2"}, [4]),
    ],
)
def test_filters_are_those_of_the_list(
    serve: Callable[..., Service], filters: dict[str, Any], expected: list[int]
) -> None:
    """Stored and new events that do not match are skipped; heartbeats carry the position of the last one examined."""
    service = serve(heartbeat_seconds=0.2)
    events = [
        row_factory.event(1),
        row_factory.event(2, type=MOVED),
        row_factory.event(3, "c2"),
        row_factory.event(4, "c2", type=MOVED),
    ]
    row_factory.store(service.database, *events[:2])
    reader = service.read(after=0, **filters)
    row_factory.store(service.database, *events[2:], row_factory.event(5, "c3"))

    assert reader.wait_for(len(expected)) == expected
    eventually(lambda: reader.last_id == "5", message="the position in the heartbeat")
    assert reader.positions == expected


def test_a_long_feed_is_sent_completely(service: Service) -> None:
    """Page after page, in order, without a wait."""
    count = 2 * PAGE_SIZE + 7
    row_factory.store(service.database, *(row_factory.event(n) for n in range(1, count + 1)))

    assert service.read(after=0).wait_for(count) == list(range(1, count + 1))


def test_concurrent_writes_cause_no_gap_or_repeat(service: Service) -> None:
    """Several readers with and without filters, some of which reconnect at any position, and several writers."""
    writers, each = 4, 15
    readers = [service.read(after=0), service.read(after=0), service.read(after=0, connection_id="c2")]

    def write(writer: int) -> None:
        for sequence in range(1, each + 1):
            emit(service.database, f"c{writer}", sequence)

    with ThreadPoolExecutor(writers) as pool:
        written = [pool.submit(write, writer) for writer in range(writers)]
        seen = read_in_pieces(service, writers * each)
        for done in written:
            done.result()

    everything = list(range(1, writers * each + 1))
    assert [reader.wait_for(len(everything)) for reader in readers[:2]] == [everything] * 2
    assert readers[2].wait_for(each) == [event["position"] for event in service.events(connection_id="c2")]
    assert seen == everything


def read_in_pieces(service: Service, count: int) -> list[int]:
    """Read events over a series of short streams; return their positions in the order of arrival."""
    seen: list[int] = []
    last = "0"
    while len(seen) < count:
        reader = service.read(last_event_id=last)
        eventually(lambda reader=reader: reader.events)  # type: ignore[misc]
        reader.close()
        reader.wait_for_end()
        seen += reader.positions
        last = str(seen[-1])
    return seen


def test_an_idle_stream_has_heartbeats(serve: Callable[..., Service]) -> None:
    """They are no events, and are sent while there are none."""
    reader = serve(heartbeat_seconds=0.1).read()

    eventually(lambda: reader.heartbeats >= 4)

    assert reader.events == []


def test_a_commit_wakes_the_readers(serve: Callable[..., Service]) -> None:
    """Many readers at once, long before the next poll."""
    service = serve(poll_seconds=LONG)
    readers = [service.read() for _ in range(20)]
    row_factory.store(service.database, row_factory.event(1))
    began = time.monotonic()
    service.feed.notify()

    assert [reader.wait_for(1) for reader in readers] == [[1]] * 20
    assert max(reader.times[0] for reader in readers) - began < 1


def test_the_number_of_streams_is_bounded(serve: Callable[..., Service]) -> None:
    """A stream beyond the limit is 503; it is accepted when another one has ended."""
    service = serve(max_streams=2)
    first, _second = service.read(), service.read()
    refused = service.read()
    problem = refused.problem()
    open_before = service.open()
    first.close()
    eventually(lambda: service.open() == 1, message="a free slot")
    third = service.read()

    assert (refused.status, refused.headers["retry-after"], problem["status"]) == (503, "5", 503)
    assert "/api/events" in problem["detail"]
    assert (open_before, third.status) == (2, 200)


def test_a_reader_that_disconnects_frees_its_slot(serve: Callable[..., Service]) -> None:
    """Long before the next heartbeat would fail."""
    service = serve(heartbeat_seconds=LONG)
    readers = [service.read() for _ in range(5)]
    for reader in readers:
        reader.close()

    eventually(lambda: service.open() == 0, 5, message="free slots")


def test_the_end_of_the_process_ends_streams_at_once(service: Service) -> None:
    """Streams end as complete responses, and readers resume elsewhere at their position."""
    readers = [service.read() for _ in range(5)]
    began = time.monotonic()
    service.server.stop()
    seconds = time.monotonic() - began
    for reader in readers:
        reader.wait_for_end()

    assert ([reader.has_ended for reader in readers], seconds < GRACE_SECONDS) == ([True] * 5, True)


def test_a_restart_leaves_no_gap_and_repeats_nothing(serve: Callable[..., Service]) -> None:
    """The next process sends the events that were committed meanwhile, after the last id."""
    before = serve()
    reader = before.read()
    row_factory.store(before.database, row_factory.event(1))
    reader.wait_for(1)
    before.server.stop()
    reader.wait_for_end()
    row_factory.store(before.database, row_factory.event(2))
    after = serve()
    again = after.read(last_event_id=reader.last_id)
    row_factory.store(before.database, row_factory.event(3))

    assert reader.positions + again.wait_for(2) == [1, 2, 3]


def test_a_slow_reader_slows_its_stream(service: Service) -> None:
    """While it does not read, no further page is queried; then it gets every event in order."""
    count = 40 * PAGE_SIZE
    filler = {"text": "x" * 8000}
    row_factory.store(
        service.database,
        *(row_factory.event(n, data={**row_factory.event(n).data, "filler": filler}) for n in range(1, count + 1)),
    )
    rest = bytearray()
    with counting(service.database) as queries, socket.create_connection(address_of(service)) as slow:
        slow.sendall(make_request("after=0"))
        eventually(lambda: queries)
        queries_while_stuck = settled_count(queries)
        while b'"position":%d,' % count not in rest[-10_000:]:
            rest += slow.recv(1 << 20)

    # The pages that were read are in buffers of the operating system.
    assert queries_while_stuck < 25
    assert [int(line[4:]) for line in rest.splitlines() if line.startswith(b"id: ")][1:] == list(range(1, count + 1))


def settled_count(queries: list[str]) -> int:
    """Return the number of queries, once there has been none for half a second."""
    known, since = len(queries), time.monotonic()

    def is_quiet() -> bool:
        nonlocal known, since
        if len(queries) > known:
            known, since = len(queries), time.monotonic()
        return time.monotonic() - since > 0.5

    eventually(is_quiet, message="quiet")
    return known


def test_a_stuck_reader_does_not_block_the_shutdown(service: Service) -> None:
    """The server ends within its grace period, although a page is not sent."""
    filler = {"text": "x" * 20_000}
    row_factory.store(
        service.database,
        *(row_factory.event(n, data={**row_factory.event(n).data, "filler": filler}) for n in range(1, 1001)),
    )
    with socket.create_connection(address_of(service)) as stuck:
        stuck.sendall(make_request("after=0"))
        eventually(lambda: service.open() == 1)
        # It waits for the grace period, and no longer.
        service.server.stop()

        assert not service.server.is_alive()


def address_of(service: Service) -> tuple[str, int]:
    parts = urlsplit(service.server.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def make_request(query: str) -> bytes:
    return f"GET /api/events/stream?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READ}\r\n\r\n".encode()


def test_a_stream_survives_a_database_outage(postgres_url: str) -> None:
    """Heartbeats continue; when the database answers again, the stream sends every event."""
    database = Database(postgres_url)
    service = Service(database, heartbeat_seconds=0.2)
    try:
        reader = service.read()
        with refusing_connections(postgres_url):
            beats = reader.heartbeats
            eventually(lambda: reader.heartbeats > beats + 5, message="heartbeats")
        row_factory.store(database, row_factory.event(1))

        assert (reader.wait_for(1), reader.has_ended) == ([1], False)
    finally:
        service.close()
        database.close()


@contextmanager
def refusing_connections(postgres_url: str) -> Iterator[None]:
    """Refuse new connections to a database, and terminate the present ones."""
    server, _, name = postgres_url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        yield
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_a_head_request_ends_at_once(service: Service) -> None:
    """It has the headers and no body, and occupies no slot."""
    answer = httpx2.head(
        service.server.url + "/api/events/stream", headers={"Authorization": f"Bearer {READ}"}, timeout=5
    )

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert service.open() == 0


@pytest.mark.parametrize("token", ["", "another"])
def test_a_stream_needs_a_token(service: Service, token: str) -> None:
    """As the list does."""
    assert service.read(token).status == 401


def test_unknown_parameters_are_refused(api: Api) -> None:
    """``wait`` and ``limit`` are parameters of the list only."""
    answer = api.reader.get("/api/events/stream", params={"wait": 1})

    assert (answer.status_code, "'wait'" in answer.json()["detail"]) == (422, True)


@given(st.text(), st.integers(1, MAX_POSITION))
def test_any_text_stays_in_its_line(text: str, position: int) -> None:
    """Also for readers that split lines at more characters than server-sent events do; the text is unchanged."""
    row = row_factory.event(position, data={**row_factory.event(1).data, "text": text})
    lines = encode_event(Event.from_row(row)).splitlines()

    assert [line.partition(": ")[0] for line in lines] == ["id", "data", ""]
    assert json.loads(lines[1].removeprefix("data: "))["data"]["text"] == text


def test_a_heartbeat_is_no_event() -> None:
    """A comment, and an id without data, which sets the position but dispatches no event."""
    assert encode_heartbeat(7).splitlines() == [":", "id: 7", ""]
