import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from simulator.faults.read_script import ScriptedRead
from simulator.faults.settings import Faults
from simulator.server import Simulator
from tests.simulator.fakes import SECRET
from tests.support.polling import eventually


class Hooks(ThreadingHTTPServer):
    """A receiver of webhooks on a socket of its own; it answers 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        """Where it waits."""
        return f"http://127.0.0.1:{self.server_port}/hooks?tenant=1"


class _Hook(BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        """Take it down."""
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    """A running receiver."""
    with Hooks() as hooks:
        thread = threading.Thread(target=hooks.serve_forever)
        thread.start()
        yield hooks
        hooks.shutdown()
        thread.join()


@pytest.fixture
def simulator(hooks: Hooks) -> Iterator[Simulator]:
    """A running simulator."""
    with Simulator(webhook_url=hooks.url, webhook_secret=SECRET, connections=3) as simulator:
        yield simulator


@pytest.fixture
def http(simulator: Simulator) -> Iterator[httpx2.Client]:
    """A client with credentials."""
    with httpx2.Client(base_url=simulator.url, headers={"Authorization": "BASIC any"}, trust_env=False) as client:
        yield client


def test_it_serves_meld_on_a_socket(simulator: Simulator, http: httpx2.Client) -> None:
    """The population is readable over HTTP."""
    connection = simulator.world.numbered(1)

    assert http.get(f"/bank-linking/connections/{connection.id}").json() == simulator.world.view(connection.id)
    assert http.get("/bank-linking/connections").json()["count"] == 3


def test_what_is_told_from_another_thread_is_sent(simulator: Simulator, hooks: Hooks) -> None:
    """An act's announcements reach the webhook URL once they are told."""
    connection = simulator.world.add()

    (announcement,) = simulator.world.damage(connection.id)
    simulator.tell([announcement])

    eventually(lambda: hooks.bodies == [announcement.body])


def test_a_cut_read_loses_its_connection(simulator: Simulator, http: httpx2.Client) -> None:
    """A cut breaks the socket without an answer, and the next read is well."""
    connection = simulator.world.numbered(1)
    http.post("/sim/reads", json={"connectionId": connection.id, "steps": [{"cut": True}]})

    with pytest.raises(httpx2.TransportError):
        http.get(f"/bank-linking/connections/{connection.id}")
    assert http.get(f"/bank-linking/connections/{connection.id}").status_code == 200


def test_a_hanging_read_ends_when_its_client_leaves(simulator: Simulator, http: httpx2.Client) -> None:
    """The record tells that the client left, without an answer."""
    connection = simulator.world.numbered(1)
    http.post("/sim/reads", json={"connectionId": connection.id, "steps": [{"hang": True}]})

    with pytest.raises(httpx2.ReadTimeout):
        http.get(f"/bank-linking/connections/{connection.id}", timeout=0.05)
    eventually(lambda: [(read.outcome, read.status) for read in simulator.reads.all()] == [("left", None)])


def test_it_stops_at_once_whatever_is_under_way(hooks: Hooks) -> None:
    """Hanging reads and endless retries do not keep it from ending, and their clients see a lost connection."""
    simulator = Simulator(webhook_url="http://127.0.0.1:9/", webhook_secret=SECRET, faults=Faults(hanging=1))
    simulator.start()
    simulator.tell([simulator.world.announce("WEBHOOK_TEST")])
    lost = threading.Thread(target=_read_in_vain, args=(f"{simulator.url}/bank-linking/connections",))
    lost.start()
    eventually(lambda: simulator.reads.count(None))

    began = time.monotonic()
    simulator.stop()

    assert time.monotonic() - began < 1
    lost.join(timeout=5)
    assert not lost.is_alive()


def _read_in_vain(url: str) -> None:
    with pytest.raises(httpx2.TransportError):
        httpx2.get(url, headers={"Authorization": "x"}, trust_env=False, timeout=30)


def test_a_taken_port_is_an_error_of_the_caller(simulator: Simulator) -> None:
    """Starting on a port in use raises at once."""
    port = int(simulator.url.rpartition(":")[2])

    with pytest.raises(OSError, match="in use"):
        Simulator(webhook_url="http://127.0.0.1:9/", webhook_secret=SECRET, port=port).start()


def test_it_can_be_started_again(hooks: Hooks) -> None:
    """A stopped simulator keeps its world and can take up its work."""
    simulator = Simulator(webhook_url=hooks.url, webhook_secret=SECRET, connections=1)
    for _ in range(2):
        with simulator:
            answer = httpx2.get(f"{simulator.url}/sim", trust_env=False).json()

            assert answer["connections"] == 1


def test_stopping_what_never_started_does_nothing() -> None:
    """A simulator may be stopped at any time, and twice."""
    simulator = Simulator(webhook_url="http://127.0.0.1:9/", webhook_secret=SECRET)

    simulator.stop()
    simulator.stop()


def test_no_port_stays_open(hooks: Hooks) -> None:
    """After the stop nobody listens."""
    with Simulator(webhook_url=hooks.url, webhook_secret=SECRET) as simulator:
        address = ("127.0.0.1", int(simulator.url.rpartition(":")[2]))

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


def test_it_lives_by_itself(hooks: Hooks) -> None:
    """With a rate, webhooks come without anybody's doing."""
    with Simulator(webhook_url=hooks.url, webhook_secret=SECRET, connections=50, rate=200):
        eventually(lambda: len(hooks.bodies) >= 10)


def test_a_slow_reader_does_not_slow_the_others(simulator: Simulator, http: httpx2.Client) -> None:
    """A read that hangs leaves the next one alone."""
    hanging, other = simulator.world.numbered(1), simulator.world.numbered(2)
    simulator.script.add(hanging.id, [ScriptedRead(hang=True)])
    url = f"{simulator.url}/bank-linking/connections/{hanging.id}"
    threading.Thread(target=_read_in_vain, args=(url,)).start()
    eventually(lambda: simulator.reads.count(hanging.id))

    assert http.get(f"/bank-linking/connections/{other.id}").status_code == 200
