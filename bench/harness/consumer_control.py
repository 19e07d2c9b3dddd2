"""Control of the push consumer that runs in its own process: what it received, and when."""

import contextlib
import json
from collections.abc import Iterator
from typing import NamedTuple

from bench.harness.simulated_meld import send_request
from bench.harness.stack import Stack
from tests.support.processes.servers import free_ports


class ReceivedPush(NamedTuple):
    """A push that the consumer acknowledged; times are Unix times."""

    position: int
    connection_id: str
    received_at: float
    answered_at: float


class ConsumerControl:
    """A consumer that acknowledges pushes to ``url`` and never answers those to ``hanging_url``."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = f"http://127.0.0.1:{port}/push"
        self.hanging_url = f"http://127.0.0.1:{port}/hang"

    def pushes(self) -> list[ReceivedPush]:
        """Return the acknowledged pushes in the order of the answers."""
        _status, content = send_request(self._port, "GET", "/pushes")
        return [ReceivedPush(*row) for row in json.loads(content)["pushes"]]

    def count(self) -> int:
        """Return the number of acknowledged pushes."""
        return int(send_request(self._port, "GET", "/count")[1])

    def first_received_at(self, position: int) -> float | None:
        """Return when an event was first received; None if it was not."""
        return next((push.received_at for push in self.pushes() if push.position == position), None)

    def abort_hanging(self) -> None:
        """Abort the connections that wait for an answer."""
        send_request(self._port, "POST", "/abort-hanging")


@contextlib.contextmanager
def run_consumer(stack: Stack, seconds: float) -> Iterator[ConsumerControl]:
    """Run a consumer that answers each push after some seconds."""
    (port,) = free_ports(1)
    with stack.child("consumer", "-m", "bench.harness.consumer_process", str(port), str(seconds), port=port):
        yield ConsumerControl(port)
