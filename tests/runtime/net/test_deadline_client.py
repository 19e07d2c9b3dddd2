import itertools
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from runtime.net.deadline_client import DeadlineClient, HttpExchangeError, HttpResponse
from tests.runtime.net.raw_socket_server import Handler, Peer, answer, repeating, serving
from tests.support.polling import eventually
from tests.support.processes.servers import free_ports

SECONDS = 0.4
GENEROUS_SECONDS = 5
LIMIT = 1000
HEADERS = {"Authorization": "BASIC hidden"}


@pytest.fixture
def client() -> Iterator[DeadlineClient]:
    """A client with two connections."""
    made = DeadlineClient(connections=2)
    yield made
    made.close()


def get(
    client: DeadlineClient, url: str, *, seconds: float = 10, limit: int = LIMIT, **query: str | int
) -> HttpResponse:
    return client.get(url + "/path", query=query, headers=HEADERS, seconds=seconds, max_bytes=limit)


def error_message(client: DeadlineClient, handler: Handler, seconds: float = SECONDS) -> str:
    with serving(handler) as server:
        began = monotonic()
        with pytest.raises(HttpExchangeError) as caught:
            get(client, server.url, seconds=seconds, after="query")
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


def endless_interim_responses(peer: Peer) -> None:
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


def test_a_response_is_returned_whole(client: DeadlineClient) -> None:
    """Status, headers by lower-case name, and body are returned unchanged."""
    with serving(repeating(answer(404, b"\x00body", {"X-Some-Thing": "Value"}))) as server:
        got = get(client, server.url)

    assert (got.status, got.body, got.is_truncated) == (404, b"\x00body", False)
    assert got.headers["x-some-thing"] == "Value"


def test_the_request_has_query_and_headers(client: DeadlineClient) -> None:
    """The query is quoted, and the headers are sent."""
    with serving(repeating(answer())) as server:
        get(client, server.url, after="a b&c", limit_=5)

    request_line, *lines = server.requests[0].split("\r\n")
    assert request_line == "GET /path?after=a+b%26c&limit_=5 HTTP/1.1"
    assert "Authorization: BASIC hidden" in lines


@pytest.mark.parametrize("handler", [trickled_head, trickled_body, trickled_chunks, endless_interim_responses, silence])
def test_the_whole_exchange_has_a_deadline(client: DeadlineClient, handler: Handler) -> None:
    """However slowly a response arrives, byte by byte, the exchange ends at its deadline."""
    assert error_message(client, handler) == "no complete response within 0.4 s"


def test_each_exchange_has_its_own_deadline(client: DeadlineClient) -> None:
    """An exchange that ran out of time leaves nothing to the next one in the same thread."""
    with serving(silence, repeating(answer(200, b"ok"))) as server:
        with pytest.raises(HttpExchangeError):
            get(client, server.url, seconds=SECONDS)

        assert get(client, server.url).body == b"ok"


@pytest.mark.parametrize("handler", [cut_at_once, cut_head, cut_body, nonsense])
def test_a_broken_connection_is_an_error(client: DeadlineClient, handler: Handler) -> None:
    """A connection that ends too early, or does not speak HTTP, is a failed exchange."""
    assert error_message(client, handler, seconds=10).startswith("connection failed (")


def test_a_refused_connection_is_an_error(client: DeadlineClient) -> None:
    """A refused connection is a failed exchange."""
    with pytest.raises(HttpExchangeError, match=r"connection failed \(ConnectError\)"):
        get(client, f"http://127.0.0.1:{free_ports(1)[0]}")


def test_connections_are_kept(client: DeadlineClient) -> None:
    """Exchanges one after the other share a connection."""
    with serving(repeating(answer(200, b"ok"))) as server:
        bodies = [get(client, server.url).body for _ in range(3)]

    assert (bodies, server.connections) == ([b"ok"] * 3, 1)


def test_a_kept_connection_that_was_closed_is_replaced(client: DeadlineClient) -> None:
    """If the server closes a kept connection on the next request, the request is sent again on a new one."""

    def once_then_close(peer: Peer) -> None:
        peer.request()
        peer.send(answer(200, b"first"))
        peer.request()

    with serving(once_then_close, repeating(answer(200, b"second"))) as server:
        bodies = [get(client, server.url).body for _ in range(2)]

    assert bodies == [b"first", b"second"]
    assert (len(server.requests), server.connections) == (3, 2)


def test_a_body_is_read_up_to_its_limit(client: DeadlineClient) -> None:
    """A body of just the limit is whole; of one longer, the beginning is returned, and marked."""
    with serving(repeating(answer(200, b"x" * LIMIT), answer(200, b"x" * (LIMIT + 1)))) as server:
        whole, cut = get(client, server.url), get(client, server.url)

    assert (len(whole.body), whole.is_truncated) == (LIMIT, False)
    assert (len(cut.body), cut.is_truncated) == (LIMIT, True)


def test_an_endless_body_ends_at_its_limit(client: DeadlineClient) -> None:
    """A response that never ends is read up to the limit only."""

    def flood(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not peer.server.closing.is_set():
            peer.send(b"400\r\n" + b"x" * 1024 + b"\r\n")

    with serving(flood) as server:
        got = get(client, server.url)

    assert (len(got.body), got.is_truncated) == (LIMIT, True)


def test_redirects_are_not_followed(client: DeadlineClient) -> None:
    """Credentials are not sent to the target of a redirect."""
    with serving(repeating(answer(302, b"", {"Location": "http://127.0.0.1:1/elsewhere"}))) as server:
        got = get(client, server.url)

    assert (got.status, len(server.requests)) == (302, 1)


def test_threads_share_the_connections(client: DeadlineClient) -> None:
    """More threads than connections wait for each other, and each gets its own response."""
    bodies: list[bytes] = []
    with serving(repeating(answer(200, b"ok"))) as server:
        threads = [threading.Thread(target=lambda: bodies.append(get(client, server.url).body)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert bodies == [b"ok"] * 8
    assert server.connections <= 2


def test_waiting_for_a_connection_is_bounded(client: DeadlineClient) -> None:
    """If all connections stay in use, a request that waits for one fails in time."""

    def hold() -> None:
        with pytest.raises(HttpExchangeError):
            get(client, server.url, seconds=2)

    with serving(silence) as server:
        holding = [threading.Thread(target=hold) for _ in range(2)]
        for thread in holding:
            thread.start()
        eventually(lambda: server.connections == 2)

        with pytest.raises(HttpExchangeError, match="no complete response"):
            get(client, server.url, seconds=SECONDS)
        for thread in holding:
            thread.join()
