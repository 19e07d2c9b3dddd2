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
from tests.support.servers import free_ports


class EndError(Exception):
    """What Ctrl-C is to a tail on a terminal."""


class Tailing:
    """A tail in a thread of its own, and what it said."""

    def __init__(self, url: str, *, token: str = READ, **query: Any) -> None:
        self.positions: list[int] = []
        self.words: list[str] = []
        self.waits = 0
        self.error: Exception | None = None
        self._end = threading.Event()
        self._tail = EventTail(
            url=url,
            token=SecretStr(token),
            query=StreamQuery(**query),
            print_event=lambda event: self.positions.append(event.position),
            print_status=self.words.append,
            wait=self._wait,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_for(self, *positions: int) -> None:
        """Wait until these have been printed, and no other."""
        eventually(lambda: self.positions == list(positions), message=f"{positions}; there are {self.positions}")

    def wait_until_begun(self) -> None:
        """Wait until it knows where it is."""
        eventually(lambda: self._tail._position is not None or not self._thread.is_alive())

    def end(self) -> None:
        """End it, once it is not reading."""
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
    """Make services on one database."""
    with ExitStack() as stack:

        def serve(**values: Any) -> Service:
            service = Service(database, **values)
            stack.callback(service.close)
            return service

        yield serve


def test_it_prints_what_comes(database: Database, serve: Callable[..., Service]) -> None:
    """From now on; from a position on, if it is asked to; and only what matches."""
    service = serve()
    row_factory.store(database, row_factory.event(1))
    tails = [Tailing(service.server.url), Tailing(service.server.url, after=0)]
    tails.append(Tailing(service.server.url, connection_id="c2"))
    for tail in tails:
        tail.wait_until_begun()
    row_factory.store(database, row_factory.event(2), row_factory.event(3, "c2"))

    for tail, expected in zip(tails, ([2, 3], [1, 2, 3], [3]), strict=True):
        tail.wait_for(*expected)
    service.server.stop()
    for tail in tails:
        tail.end()


def test_a_restart_is_waited_for(database: Database, serve: Callable[..., Service]) -> None:
    """What is committed meanwhile is printed, nothing twice, and it is said once that nobody answered."""
    (port,) = free_ports(1)
    first = serve(port=port)
    tail = Tailing(first.server.url)
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

    away, back, away_again, back_again = tail.words[:4]
    assert "does not answer" in away
    assert "is back" in back
    assert (away_again, back_again) == (away, back)


def test_a_restart_before_the_first_event_leaves_no_gap(database: Database, serve: Callable[..., Service]) -> None:
    """It began with what comes from now on, and now was before the restart."""
    (port,) = free_ports(1)
    row_factory.store(database, row_factory.event(1))
    first = serve(port=port)
    tail = Tailing(first.server.url)
    tail.wait_until_begun()
    first.server.stop()
    first.server._socket.close()
    row_factory.store(database, row_factory.event(2))
    second = serve(port=port)

    tail.wait_for(2)
    second.server.stop()
    tail.end()


def test_nobody_there_is_said(serve: Callable[..., Service]) -> None:
    """At the beginning nothing is waited for: the address may be wrong."""
    (port,) = free_ports(1)
    tail = Tailing(f"http://127.0.0.1:{port}")
    tail.end()

    assert isinstance(tail.error, OutOfReachError)
    assert f"127.0.0.1:{port} does not answer" in str(tail.error)


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://127.0.0.1", "http://127.0.0.1:x"])
def test_what_is_no_url_is_said(url: str) -> None:
    """In words, and by the name of the option."""
    tail = Tailing(url)
    tail.end()

    assert isinstance(tail.error, UsageError)
    assert "--url" in str(tail.error)


@pytest.mark.parametrize("token", ["another", "clé"])
def test_a_wrong_token_is_said(serve: Callable[..., Service], token: str) -> None:
    """With what to do, without the token, and without another try."""
    tail = Tailing(serve().server.url, token=token)
    tail.end()

    assert isinstance(tail.error, UsageError)
    assert "MELDWATCH_READ_TOKENS" in str(tail.error)
    assert token not in str(tail.error)
    assert tail.waits == 0


def test_what_is_no_meldwatch_is_said() -> None:
    """Something else answers there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tail = Tailing(f"http://127.0.0.1:{listener.getsockname()[1]}")
        other, _address = listener.accept()
        with other:
            other.recv(4096)
            other.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi")
        tail.end()

    assert isinstance(tail.error, OutOfReachError)
    assert "instead of a stream" in str(tail.error)


@given(st.lists(st.tuples(st.integers(1, 2**63 - 1), st.text() | st.none())), st.data())
def test_however_it_is_cut_it_reads_the_same(told: list[tuple[int, str | None]], data: st.DataObject) -> None:
    """Networks cut a stream where they like, in the middle of a character too."""
    written = b"retry: 1000\n" + b"".join(
        (encode_heartbeat(position) if text is None else encode_event(event(position, text))).encode()
        for position, text in told
    )
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)))))
    chunks = [written[start:end] for start, end in zip([0, *cuts], [*cuts, len(written)], strict=True)]

    read = [
        (position, Event.model_validate_json(text) if text else None) for position, text in parse_sse_blocks(chunks)
    ]

    assert read == [(position, None if text is None else event(position, text)) for position, text in told]


def event(position: int, text: str) -> Event:
    return Event.from_row(row_factory.event(position, data={"text": text}))
