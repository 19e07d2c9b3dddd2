"""The hand on the consumer in a process of its own: what was pushed to it, and when."""

import contextlib
import json
from collections.abc import Iterator
from typing import NamedTuple

from bench.harness.simulated_meld import exchange
from bench.harness.stack import Stack
from tests.support.servers import free_ports


class ReceivedPush(NamedTuple):
    """One that was taken; times are in seconds of the epoch."""

    position: int
    connection_id: str
    came: float
    answered: float


class Consumed:
    """A consumer that takes what is pushed to ``url``, and never answers at ``hanging_url``."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = f"http://127.0.0.1:{port}/take"
        self.hanging_url = f"http://127.0.0.1:{port}/hang"

    def pushes(self) -> list[ReceivedPush]:
        """Return what it took, in the order of its answers."""
        _status, content = exchange(self._port, "GET", "/got")
        return [ReceivedPush(*row) for row in json.loads(content)["pushes"]]

    def count(self) -> int:
        """Return how many it took."""
        return int(exchange(self._port, "GET", "/count")[1])

    def received(self, position: int) -> float | None:
        """Return when an event came first; None where it has not."""
        return next((push.came for push in self.pushes() if push.position == position), None)

    def end_hanging(self) -> None:
        """Cut off those that wait for an answer."""
        exchange(self._port, "POST", "/end")


@contextlib.contextmanager
def consumer(stack: Stack, seconds: float) -> Iterator[Consumed]:
    """Run a consumer that takes so long over each push."""
    (port,) = free_ports(1)
    with stack.child("consumer", "-m", "bench.harness.consumer_process", str(port), str(seconds), port=port):
        yield Consumed(port)
