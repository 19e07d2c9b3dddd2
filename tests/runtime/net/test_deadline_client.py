import itertools
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from runtime.net.deadline_client import DeadlineClient, HttpExchangeError, HttpResponse
from tests.runtime.net.raw_socket_server import Handler, Peer, answer, repeating, serving
from tests.support.polling import eventually
from tests.support.servers import free_ports

SECONDS = 0.4
GENEROUS_SECONDS = 5
LIMIT = 1000
HEADERS = {"Authorization": "BASIC hidden"}


@pytest.fixture
def exchange() -> Iterator[DeadlineClient]:
    """A pool of connections."""
    made = DeadlineClient(connections=2)
    yield made
    made.close()


def get(
    exchange: DeadlineClient, url: str, *, seconds: float = 10, limit: int = LIMIT, **query: str | int
) -> HttpResponse:
    return exchange.get(url + "/path", query=query, headers=HEADERS, seconds=seconds, limit=limit)


def complaint(exchange: DeadlineClient, handler: Handler, seconds: float = SECONDS) -> str:
    with serving(handler) as server:
        began = monotonic()
        with pytest.raises(HttpExchangeError) as caught:
            get(exchange, server.url, seconds=seconds, after="query")
        assert monotonic() - began < GENEROUS_SECONDS
    message = str(caught.value)
    assert not any(word in message for word in ("hidden", "query", "127.0.0.1"))
    return message


def trickled_head(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\n")
    peer.trickle(f"X-{number}: 1\r\n".encode() for number in itertools.count())


def trickled_body(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
    peer.trickle(itertools.repeat(b"x"))


def trickled_chunks(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    peer.trickle(itertools.repeat(b"1\r\nx\r\n"))


def patience(peer: Peer) -> None:
    peer.request()
    peer.trickle(itertools.repeat(b"HTTP/1.1 102 Processing\r\n\r\n"))


def silence(peer: Peer) -> None:
    peer.hang()


def cut_at_once(peer: Peer) -> None:
    peer.request()


def cut_head(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")


def cut_body(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nx")


def nonsense(peer: Peer) -> None:
    peer.request()
    peer.send(b"SSH-2.0-OpenSSH\r\n\r\n")


def test_an_answer_comes_whole(exchange: DeadlineClient) -> None:
    """Status, headers by lower-case name, and body are returned as they came."""
    with serving(repeating(answer(404, b"\x00body", {"X-Some-Thing": "Value"}))) as server:
        got = get(exchange, server.url)

    assert (got.status, got.body, got.is_cut) == (404, b"\x00body", False)
    assert got.headers["x-some-thing"] == "Value"


def test_the_request_says_what_it_was_told(exchange: DeadlineClient) -> None:
    """The query is quoted, and the headers are sent."""
    with serving(repeating(answer())) as server:
        get(exchange, server.url, after="a b&c", limit_=5)

    request_line, *lines = server.requests[0].split("\r\n")
    assert request_line == "GET /path?after=a+b%26c&limit_=5 HTTP/1.1"
    assert "Authorization: BASIC hidden" in lines


@pytest.mark.parametrize("handler", [trickled_head, trickled_body, trickled_chunks, patience, silence])
def test_the_time_is_bounded_in_all(exchange: DeadlineClient, handler: Handler) -> None:
    """However slowly an answer trickles in, byte by byte, the exchange ends at its deadline."""
    assert complaint(exchange, handler) == "no whole answer within 0.4 s"


def test_a_deadline_is_one_exchanges_own(exchange: DeadlineClient) -> None:
    """An exchange that ran out of time leaves nothing to the next one in the same thread."""
    with serving(silence, repeating(answer(200, b"ok"))) as server:
        with pytest.raises(HttpExchangeError):
            get(exchange, server.url, seconds=SECONDS)

        assert get(exchange, server.url).body == b"ok"


@pytest.mark.parametrize("handler", [cut_at_once, cut_head, cut_body, nonsense])
def test_a_connection_that_breaks_is_told(exchange: DeadlineClient, handler: Handler) -> None:
    """A connection that ends too early, or does not speak HTTP, is a failed exchange."""
    assert complaint(exchange, handler, seconds=10).startswith("connection failed (")


def test_nobody_listening_is_told(exchange: DeadlineClient) -> None:
    """A refused connection is a failed exchange."""
    with pytest.raises(HttpExchangeError, match=r"connection failed \(ConnectError\)"):
        get(exchange, f"http://127.0.0.1:{free_ports(1)[0]}")


def test_connections_are_kept(exchange: DeadlineClient) -> None:
    """Exchanges one after the other share a connection."""
    with serving(repeating(answer(200, b"ok"))) as server:
        bodies = [get(exchange, server.url).body for _ in range(3)]

    assert (bodies, server.connections) == ([b"ok"] * 3, 1)


def test_a_kept_connection_that_was_closed_is_replaced(exchange: DeadlineClient) -> None:
    """A server that closes a kept connection on the next request is asked again on a new one."""

    def once_then_close(peer: Peer) -> None:
        peer.request()
        peer.send(answer(200, b"first"))
        peer.request()

    with serving(once_then_close, repeating(answer(200, b"second"))) as server:
        bodies = [get(exchange, server.url).body for _ in range(2)]

    assert bodies == [b"first", b"second"]
    assert (len(server.requests), server.connections) == (3, 2)


def test_a_body_is_read_up_to_its_limit(exchange: DeadlineClient) -> None:
    """A body of just the limit is whole; of one longer, the beginning is returned, and marked."""
    with serving(repeating(answer(200, b"x" * LIMIT), answer(200, b"x" * (LIMIT + 1)))) as server:
        whole, cut = get(exchange, server.url), get(exchange, server.url)

    assert (len(whole.body), whole.is_cut) == (LIMIT, False)
    assert (len(cut.body), cut.is_cut) == (LIMIT, True)


def test_an_endless_body_ends_at_its_limit(exchange: DeadlineClient) -> None:
    """A server that never stops sending is not listened to for longer than the limit."""

    def flood(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not peer.server.closing.is_set():
            peer.send(b"400\r\n" + b"x" * 1024 + b"\r\n")

    with serving(flood) as server:
        got = get(exchange, server.url)

    assert (len(got.body), got.is_cut) == (LIMIT, True)


def test_redirects_are_not_followed(exchange: DeadlineClient) -> None:
    """Credentials are sent nowhere else."""
    with serving(repeating(answer(302, b"", {"Location": "http://127.0.0.1:1/elsewhere"}))) as server:
        got = get(exchange, server.url)

    assert (got.status, len(server.requests)) == (302, 1)


def test_threads_share_the_connections(exchange: DeadlineClient) -> None:
    """More threads than connections wait for each other, and all get their own answer."""
    bodies: list[bytes] = []
    with serving(repeating(answer(200, b"ok"))) as server:
        threads = [threading.Thread(target=lambda: bodies.append(get(exchange, server.url).body)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert bodies == [b"ok"] * 8
    assert server.connections <= 2


def test_waiting_for_a_connection_is_bounded(exchange: DeadlineClient) -> None:
    """Where all connections stay in use, who waits for one is told in time."""

    def hold() -> None:
        with pytest.raises(HttpExchangeError):
            get(exchange, server.url, seconds=2)

    with serving(silence) as server:
        holding = [threading.Thread(target=hold) for _ in range(2)]
        for thread in holding:
            thread.start()
        eventually(lambda: server.connections == 2)

        with pytest.raises(HttpExchangeError, match="no whole answer"):
            get(exchange, server.url, seconds=SECONDS)
        for thread in holding:
            thread.join()
