import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from meldwatch.process.http_server import GRACE_SECONDS, HttpServer
from runtime.errors import SettingsError
from tests.meldwatch.process.echo_app import Echo
from tests.meldwatch.process.raw_http_client import Wire, request
from tests.support.polling import eventually


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture
def echo() -> Iterator[Echo]:
    """The application."""
    echo = Echo()
    yield echo
    echo.may_answer.set()


@pytest.fixture
def server(echo: Echo) -> Iterator[HttpServer]:
    """A server that has not been started."""
    server = HttpServer(echo.app, host="127.0.0.1", port=0, on_stop=echo.may_answer.set)
    yield server
    if server.is_alive():
        server.stop()
    server._socket.close()


def test_its_url_names_the_port(server: HttpServer) -> None:
    """Port 0 stands for a free port."""
    server.start()
    with Wire(server.url) as wire:
        wire.send(request(b"hello", path="/echo"))
        answer = wire.answer()

    assert (answer.status, answer.body) == (200, b"hello")
    assert server.is_alive()


def test_its_url_is_known_before_it_starts(server: HttpServer) -> None:
    """A client that connects early waits instead of being refused."""
    with Wire(server.url) as wire:
        wire.send(request(b"early", path="/echo"))
        server.start()

        assert wire.answer().body == b"early"


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
def test_it_serves_ipv6(echo: Echo) -> None:
    """An address with colons is IPv6, and is bracketed in the URL."""
    server = HttpServer(echo.app, host="::1", port=0, on_stop=lambda: None)
    server.start()
    with Wire(server.url) as wire:
        wire.send(request(b"six", path="/echo"))
        answer = wire.answer()
    url = server.url
    server.stop()

    assert url.startswith("http://[::1]:")
    assert answer.body == b"six"


def test_a_port_in_use_is_reported_at_once(server: HttpServer, echo: Echo) -> None:
    """Before anything starts; the error names the setting."""
    port = urlsplit(server.url).port
    assert port is not None

    with pytest.raises(SettingsError, match="MELDWATCH_PORT"):
        HttpServer(echo.app, host="127.0.0.1", port=port, on_stop=lambda: None)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_unavailable_address_is_reported_at_once(echo: Echo, host: str) -> None:
    """An address of another machine, or an unknown host name."""
    with pytest.raises(SettingsError, match="MELDWATCH_HOST"):
        HttpServer(echo.app, host=host, port=0, on_stop=lambda: None)


def test_responses_do_not_name_the_server(server: HttpServer) -> None:
    """Neither name nor version."""
    server.start()
    with Wire(server.url) as wire:
        wire.send(request(b"", path="/echo"))
        headers = wire.answer().headers

    assert "server" not in headers


def test_proxy_headers_are_ignored(server: HttpServer) -> None:
    """A client cannot choose its address: the loopback address gives access to the metrics."""
    server.start()
    with Wire(server.url) as wire:
        wire.send(request(b"", "X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https", path="/client"))
        answer = wire.answer()

    assert answer.body == b"http 127.0.0.1"


def test_stopping_finishes_requests_under_way(echo: Echo) -> None:
    """They get their responses, new connections are refused, and the thread ends."""
    server = HttpServer(echo.app, host="127.0.0.1", port=0, on_stop=lambda: None)
    url = server.url
    server.start()
    with Wire(url) as wire, Wire(url) as idle:
        wire.send(request(b"", path="/slow"))
        eventually(lambda: echo.seen)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert idle.is_closed()
        echo.may_answer.set()
        answer = wire.answer()
        stopping.join()

    assert (answer.status, answer.body, server.is_alive()) == (200, b"slow", False)
    with pytest.raises(ConnectionError):
        Wire(url)


def test_stopping_releases_waiting_requests_first(server: HttpServer, echo: Echo) -> None:
    """``on_stop`` is called first, so that waiting requests end."""
    server.start()
    with Wire(server.url) as wire:
        wire.send(request(b"", path="/slow"))
        eventually(lambda: echo.seen)
        began = time.monotonic()
        server.stop()
        seconds = time.monotonic() - began

        assert wire.answer().body == b"slow"
    assert seconds < GRACE_SECONDS


def test_a_hanging_request_does_not_block_the_shutdown(echo: Echo) -> None:
    """After the grace period, the server ends without it."""
    server = HttpServer(echo.app, host="127.0.0.1", port=0, on_stop=lambda: None)
    server.start()
    with Wire(server.url) as wire:
        wire.send(request(b"", path="/forever"))
        eventually(lambda: echo.seen)
        began = time.monotonic()
        server.stop()
        seconds = time.monotonic() - began

        assert wire.answer().status == 500
    assert (server.is_alive(), seconds < GRACE_SECONDS + 1.5) == (False, True)


def test_an_error_of_the_application_is_500(server: HttpServer) -> None:
    """It ends one request and nothing else."""
    server.start()
    with Wire(server.url) as wire:
        wire.send(request(b"", path="/broken"))
        broken = wire.answer()
    with Wire(server.url) as wire:
        wire.send(request(b"on", path="/echo"))
        on = wire.answer()

    assert (broken.status, on.status) == (500, 200)
    assert b"secret" not in broken.body
