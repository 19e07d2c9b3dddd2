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
from tests.support.http import CLIENT
from tests.support.polling import eventually


class HookServer(ThreadingHTTPServer):
    """A receiver of webhooks on its own socket; it answers 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        """The webhook URL."""
        return f"http://127.0.0.1:{self.server_port}/hooks?tenant=1"


class _Hook(BaseHTTPRequestHandler):
    server: HookServer

    def do_POST(self) -> None:
        """Record the body and answer 200."""
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def hooks() -> Iterator[HookServer]:
    """A running receiver."""
    with HookServer() as hooks:
        thread = threading.Thread(target=hooks.serve_forever)
        thread.start()
        yield hooks
        hooks.shutdown()
        thread.join()


@pytest.fixture
def simulator(hooks: HookServer) -> Iterator[Simulator]:
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
    connection = simulator.world.by_number(1)

    assert http.get(f"/bank-linking/connections/{connection.id}").json() == simulator.world.view(connection.id)
    assert http.get("/bank-linking/connections").json()["count"] == 3


def test_webhooks_can_be_sent_from_another_thread(simulator: Simulator, hooks: HookServer) -> None:
    """send_webhooks() delivers an action's events to the webhook URL."""
    connection = simulator.world.add()

    (event,) = simulator.world.break_connection(connection.id)
    simulator.send_webhooks([event])

    eventually(lambda: hooks.bodies == [event.body])


def test_a_cut_read_loses_its_connection(simulator: Simulator, http: httpx2.Client) -> None:
    """A cut aborts the connection without an answer, and the next read succeeds."""
    connection = simulator.world.by_number(1)
    http.post("/sim/reads", json={"connectionId": connection.id, "steps": [{"cut": True}]})

    with pytest.raises(httpx2.TransportError):
        http.get(f"/bank-linking/connections/{connection.id}")
    assert http.get(f"/bank-linking/connections/{connection.id}").status_code == 200


def test_a_hanging_read_ends_when_its_client_disconnects(simulator: Simulator, http: httpx2.Client) -> None:
    """The log records that the client left without an answer."""
    connection = simulator.world.by_number(1)
    http.post("/sim/reads", json={"connectionId": connection.id, "steps": [{"hang": True}]})

    with pytest.raises(httpx2.ReadTimeout):
        http.get(f"/bank-linking/connections/{connection.id}", timeout=0.05)
    eventually(lambda: [(read.outcome, read.status) for read in simulator.reads.all()] == [("left", None)])


def test_it_stops_at_once_during_reads_and_deliveries(hooks: HookServer) -> None:
    """Hanging reads and retries do not delay the stop; clients see a lost connection."""
    simulator = Simulator(webhook_url="http://127.0.0.1:9/", webhook_secret=SECRET, faults=Faults(hanging=1))
    simulator.start()
    simulator.send_webhooks([simulator.world.compose_event("WEBHOOK_TEST")])
    lost = threading.Thread(target=_read_without_answer, args=(f"{simulator.url}/bank-linking/connections",))
    lost.start()
    eventually(lambda: simulator.reads.count(None))

    began = time.monotonic()
    simulator.stop()

    assert time.monotonic() - began < 1
    lost.join(timeout=5)
    assert not lost.is_alive()


def _read_without_answer(url: str) -> None:
    with pytest.raises(httpx2.TransportError):
        CLIENT.get(url, headers={"Authorization": "x"}, timeout=30)


def test_a_port_in_use_is_an_oserror(simulator: Simulator) -> None:
    """start() on a port in use raises OSError."""
    port = int(simulator.url.rpartition(":")[2])

    with pytest.raises(OSError, match="in use"):
        Simulator(webhook_url="http://127.0.0.1:9/", webhook_secret=SECRET, port=port).start()


def test_it_can_be_started_again(hooks: HookServer) -> None:
    """A stopped simulator keeps its state and can be started again."""
    simulator = Simulator(webhook_url=hooks.url, webhook_secret=SECRET, connections=1)
    for _ in range(2):
        with simulator:
            answer = CLIENT.get(f"{simulator.url}/sim").json()

            assert answer["connections"] == 1


def test_a_stop_before_the_start_does_nothing() -> None:
    """stop() may be called at any time, and twice."""
    simulator = Simulator(webhook_url="http://127.0.0.1:9/", webhook_secret=SECRET)

    simulator.stop()
    simulator.stop()


def test_a_stop_closes_the_port(hooks: HookServer) -> None:
    """After the stop, the port refuses connections."""
    with Simulator(webhook_url=hooks.url, webhook_secret=SECRET) as simulator:
        address = ("127.0.0.1", int(simulator.url.rpartition(":")[2]))

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


def test_a_rate_starts_random_activity(hooks: HookServer) -> None:
    """With a rate, webhooks are sent without any request."""
    with Simulator(webhook_url=hooks.url, webhook_secret=SECRET, connections=50, rate=200):
        eventually(lambda: len(hooks.bodies) >= 10)


def test_a_hanging_read_does_not_delay_others(simulator: Simulator, http: httpx2.Client) -> None:
    """Another read is answered while one hangs."""
    hanging, other = simulator.world.by_number(1), simulator.world.by_number(2)
    simulator.script.add(hanging.id, [ScriptedRead(hang=True)])
    url = f"{simulator.url}/bank-linking/connections/{hanging.id}"
    threading.Thread(target=_read_without_answer, args=(url,)).start()
    eventually(lambda: simulator.reads.count(hanging.id))

    assert http.get(f"/bank-linking/connections/{other.id}").status_code == 200
