from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from runtime.net.push_client import MAX_EXCERPT_BYTES, MAX_RESPONSE_BYTES, PushClient
from runtime.net.ssrf_guard import SsrfGuard
from schemas.push import PushResult
from tests.runtime.net.raw_socket_server import Handler, Peer, answer, repeating, serving

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LOCAL = SsrfGuard(["127.0.0.0/8"])


@pytest.fixture
def push() -> Iterator[PushClient]:
    """A client that may push to this machine."""
    made = PushClient(guard=LOCAL, connections=2, seconds=0.5, clock=lambda: NOW)
    yield made
    made.close()


def send(push: PushClient, handler: Handler) -> tuple[PushResult, list[str]]:
    with serving(handler) as server:
        return push.send(server.url + "/hook?x=1", {"webhook-id": "e1"}, b'{"a": 1}'), server.requests


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_an_acknowledgement(push: PushClient, status: int) -> None:
    """The body of the response does not matter."""
    result, requests = send(push, repeating(answer(status)))

    assert result == PushResult(status)
    assert result.is_acknowledged
    assert requests[0].startswith("POST /hook?x=1 HTTP/1.1\r\n")
    assert "webhook-id: e1" in requests[0]
    assert "Content-Length: 8" in requests[0]


@pytest.mark.parametrize("status", [300, 302, 307, 400, 404, 408, 410, 429, 500, 503])
def test_any_other_status_is_a_failure(push: PushClient, status: int) -> None:
    """Redirects are not followed; 410 has a property of its own."""
    result, requests = send(push, repeating(answer(status, b"why", {"Location": "http://127.0.0.1:1/"})))

    assert (result.status, result.response) == (status, "why")
    assert result.detail == f"the consumer answered {status}"
    assert result.is_unsubscribed == (status == 410)
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("Fri, 02 Jan 2026 00:01:00 GMT", 60),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_parsed(push: PushClient, header: str, seconds: float | None) -> None:
    """A number or a date is parsed; anything else is ignored."""
    result, _ = send(push, repeating(answer(429, headers={"Retry-After": header})))

    assert result.retry_after == seconds


def test_the_excerpt_is_short_and_redacted(push: PushClient) -> None:
    """The first KiB, fit to be stored, without credentials."""
    body = b"\x00\xff bearer abcdef123456 " + b"x" * MAX_RESPONSE_BYTES * 2
    result, _ = send(push, repeating(answer(500, body)))

    assert result.response is not None
    assert len(result.response) <= MAX_EXCERPT_BYTES
    assert result.response.startswith("\ufffd\ufffd ***")


def test_a_hanging_consumer_times_out(push: PushClient) -> None:
    """A push without a response has a result like any other."""
    result, _ = send(push, Peer.hang)

    assert result == PushResult(detail="no complete response within 0.5 s")


def test_an_endless_response_is_truncated(push: PushClient) -> None:
    """At most 64 KiB are read; the status counts."""

    def flood(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not peer.server.closing.is_set():
            peer.send(b"400\r\n" + b"x" * 1024 + b"\r\n")

    result, _ = send(push, flood)

    assert result.is_acknowledged


def test_connections_are_kept_and_a_push_is_not_lost_with_one(push: PushClient) -> None:
    """A closed kept connection is replaced; a new one that breaks is a failure, and the push is not repeated."""

    def once(peer: Peer) -> None:
        peer.request()
        peer.send(answer())

    def cut(peer: Peer) -> None:
        peer.request()

    with serving(once, once, cut) as server:
        results = [push.send(server.url, {}, b"x") for _ in range(3)]

    assert [result.is_acknowledged for result in results] == [True, True, False]
    assert len(server.requests) == 3


@pytest.mark.parametrize("allowed", [[], ["10.0.0.0/8"], ["127.0.0.2/32"]])
def test_every_connection_is_checked(allowed: list[str]) -> None:
    """The client does not even connect to a host that is not permitted."""
    push = PushClient(guard=SsrfGuard(allowed), connections=1)
    with serving(repeating(answer())) as server:
        result = push.send(server.url, {}, b"x")
    push.close()

    assert "MELDWATCH_PUSH_ALLOWED_NETWORKS" in (result.detail or "")
    assert server.connections == 0


def test_dns_rebinding_has_no_effect() -> None:
    """The client connects to the address that was checked; each connection resolves the name once."""
    asked: list[str] = []

    def rebind(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    push = PushClient(guard=SsrfGuard(["127.0.0.0/8"], lookup=rebind), connections=1, seconds=2)

    def once(peer: Peer) -> None:
        peer.request()
        peer.send(answer(200, headers={"Connection": "close"}))

    with serving(once) as server:
        url = server.url.replace("127.0.0.1", "consumer.example")
        first, second = push.send(url, {}, b"x"), push.send(url, {}, b"x")
    push.close()

    assert (first.status, second.status) == (200, None)
    assert asked == ["consumer.example"] * 2
    assert server.connections == 1
    assert "Host: consumer.example:" in server.requests[0]


def test_the_next_address_is_tried() -> None:
    """If no server listens at the first address, the next one is tried."""
    guard = SsrfGuard(["127.0.0.0/8"], lookup=lambda _host, _port: ["127.99.99.99", "127.0.0.1"])
    push = PushClient(guard=guard, connections=1, seconds=4)
    with serving(repeating(answer())) as server:
        result = push.send(server.url.replace("127.0.0.1", "h"), {}, b"x")
    push.close()

    assert result.is_acknowledged


def test_proxies_of_the_environment_are_ignored(push: PushClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push goes directly to its consumer."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    result, _ = send(push, repeating(answer()))

    assert result.is_acknowledged


@pytest.mark.parametrize("url", ["ftp://h", "h", "", "unix:/x"])
def test_other_schemes_are_refused(push: PushClient, url: str) -> None:
    """A URL that is neither https nor http fails, whatever the row contains."""
    assert push.send(url, {}, b"x").detail == "the URL is neither https nor http"
