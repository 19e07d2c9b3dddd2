import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from meldwatch.cli.event_tail import EventTail, parse_sse_blocks
from runtime.database import Database
from runtime.errors import OutOfReachError, UsageError
from schemas.api_queries import StreamQuery
from schemas.events import Event
from service.resources.event_stream import encode_event, encode_heartbeat
from tests.service.conftest import READ
from tests.service.resources.feed_server import Service
from tests.support import row_factory
from tests.support.polling import eventually
from tests.support.processes.servers import free_ports


class EndError(Exception):
    """Stands in for Ctrl-C."""


class RunningTail:
    """A tail in its own thread, its printed events and its status lines."""

    def __init__(self, url: str, *, token: str = READ, **query: Any) -> None:
        self.positions: list[int] = []
        self.status_lines: list[str] = []
        self.waits = 0
        self.error: Exception | None = None
        self._end = threading.Event()
        self._tail = EventTail(
            url=url,
            token=SecretStr(token),
            query=StreamQuery(**query),
            print_event=lambda event: self.positions.append(event.position),
            print_status=self.status_lines.append,
            wait=self._wait,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_for(self, *positions: int) -> None:
        """Wait until exactly these positions are printed."""
        eventually(lambda: self.positions == list(positions), message=f"{positions}; there are {self.positions}")

    def wait_until_begun(self) -> None:
        """Wait until it knows its position, or has ended."""
        eventually(lambda: self._tail._position is not None or not self._thread.is_alive())

    def end(self) -> None:
        """End it at its next wait."""
        self._end.set()
        self._thread.join(10)

    def _wait(self, _seconds: float) -> None:
        self.waits += 1
        if self._end.wait(0.05):
            raise EndError

    def _run(self) -> None:
        try:
            self._tail.run()
        except (EndError, UsageError, OutOfReachError) as error:
            self.error = error


@pytest.fixture
def serve(database: Database) -> Iterator[Callable[..., Service]]:
    """Return a factory of services on one database."""
    with ExitStack() as stack:

        def serve(**values: Any) -> Service:
            service = Service(database, **values)
            stack.callback(service.close)
            return service

        yield serve


def test_it_prints_matching_events(database: Database, serve: Callable[..., Service]) -> None:
    """New events, or all after a position; only those that match the filter."""
    service = serve()
    row_factory.store(database, row_factory.event(1))
    tails = [RunningTail(service.server.url), RunningTail(service.server.url, after=0)]
    tails.append(RunningTail(service.server.url, connection_id="c2"))
    for tail in tails:
        tail.wait_until_begun()
    row_factory.store(database, row_factory.event(2), row_factory.event(3, "c2"))

    for tail, expected in zip(tails, ([2, 3], [1, 2, 3], [3]), strict=True):
        tail.wait_for(*expected)
    service.server.stop()
    for tail in tails:
        tail.end()


def test_it_waits_during_an_outage(database: Database, serve: Callable[..., Service]) -> None:
    """Events that are committed meanwhile are printed once; each outage is reported once."""
    (port,) = free_ports(1)
    first = serve(port=port)
    tail = RunningTail(first.server.url)
    tail.wait_until_begun()
    row_factory.store(database, row_factory.event(1))
    tail.wait_for(1)
    for position in (2, 4):
        first.server.stop()
        first.server._socket.close()
        row_factory.store(database, row_factory.event(position))
        waits = tail.waits
        eventually(lambda waits=waits: tail.waits > waits + 3)  # type: ignore[misc]
        first = serve(port=port)
        row_factory.store(database, row_factory.event(position + 1))
        tail.wait_for(*range(1, position + 2))
    first.server.stop()
    tail.end()

    lost, back, lost_again, back_again = tail.status_lines[:4]
    assert "does not answer" in lost
    assert "is back" in back
    assert (lost_again, back_again) == (lost, back)


def test_a_restart_before_the_first_event_leaves_no_gap(database: Database, serve: Callable[..., Service]) -> None:
    """A tail without a position keeps the one at which it began, also across a restart."""
    (port,) = free_ports(1)
    row_factory.store(database, row_factory.event(1))
    first = serve(port=port)
    tail = RunningTail(first.server.url)
    tail.wait_until_begun()
    first.server.stop()
    first.server._socket.close()
    row_factory.store(database, row_factory.event(2))
    second = serve(port=port)

    tail.wait_for(2)
    second.server.stop()
    tail.end()


def test_a_service_that_does_not_answer_is_reported(serve: Callable[..., Service]) -> None:
    """At the beginning it does not wait: the address may be wrong."""
    (port,) = free_ports(1)
    tail = RunningTail(f"http://127.0.0.1:{port}")
    tail.end()

    assert isinstance(tail.error, OutOfReachError)
    assert f"127.0.0.1:{port} does not answer" in str(tail.error)


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://127.0.0.1", "http://127.0.0.1:x"])
def test_an_invalid_url_is_reported(url: str) -> None:
    """The error names the option."""
    tail = RunningTail(url)
    tail.end()

    assert isinstance(tail.error, UsageError)
    assert "--url" in str(tail.error)


@pytest.mark.parametrize("token", ["another", "clé"])
def test_a_wrong_token_is_reported(serve: Callable[..., Service], token: str) -> None:
    """The error names the setting and not the token; there is no retry."""
    tail = RunningTail(serve().server.url, token=token)
    tail.end()

    assert isinstance(tail.error, UsageError)
    assert "MELDWATCH_READ_TOKENS" in str(tail.error)
    assert token not in str(tail.error)
    assert tail.waits == 0


def test_another_server_is_reported() -> None:
    """The response is not an event stream."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tail = RunningTail(f"http://127.0.0.1:{listener.getsockname()[1]}")
        other, _address = listener.accept()
        with other:
            other.recv(4096)
            other.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi")
        tail.end()

    assert isinstance(tail.error, OutOfReachError)
    assert "instead of a stream" in str(tail.error)


@given(st.lists(st.tuples(st.integers(1, 2**63 - 1), st.text() | st.none())), st.data())
def test_chunks_do_not_change_the_parsed_stream(blocks: list[tuple[int, str | None]], data: st.DataObject) -> None:
    """Chunks may be cut anywhere, also inside a character."""
    written = b"retry: 1000\n" + b"".join(
        (encode_heartbeat(position) if text is None else encode_event(event(position, text))).encode()
        for position, text in blocks
    )
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)))))
    chunks = [written[start:end] for start, end in zip([0, *cuts], [*cuts, len(written)], strict=True)]

    read = [
        (position, Event.model_validate_json(text) if text else None) for position, text in parse_sse_blocks(chunks)
    ]

    assert read == [(position, None if text is None else event(position, text)) for position, text in blocks]


def event(position: int, text: str) -> Event:
    return Event.from_row(row_factory.event(position, data={"text": text}))
