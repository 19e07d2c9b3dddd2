import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import dramatiq
import pytest

from runtime import broker
from runtime.errors import OutOfReachError
from schemas.message_names import REFETCH_ACTOR
from tests.support.polling import eventually
from tests.support.processes import servers

GENEROUS_SECONDS = 25


@pytest.fixture
def connected(broker_url: str) -> Iterator[broker.Broker]:
    """A connection to an empty broker, of each kind."""
    made = broker.connect(broker_url)
    yield made
    made.close()


@contextmanager
def working(made: broker.Broker, work: Callable[[str], None]) -> Iterator[None]:
    dramatiq.actor(work, broker=made, actor_name=REFETCH_ACTOR, queue_name=REFETCH_ACTOR)
    worker = dramatiq.Worker(made, worker_threads=2, worker_timeout=50)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


@pytest.fixture(params=["redis", "amqp"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Each kind of broker that may be away."""
    return str(request.param)


def complaint(use: Callable[[], None]) -> str:
    began = monotonic()
    with pytest.raises(OutOfReachError) as caught:
        use()
    assert monotonic() - began < GENEROUS_SECONDS
    return str(caught.value)


def test_a_message_reaches_a_worker(connected: broker.Broker) -> None:
    """Each enqueued id arrives at the actor once."""
    seen: list[str] = []
    with working(connected, seen.append):
        broker.enqueue(connected, ["c1", "c 2/é"])

        eventually(lambda: sorted(seen) == ["c 2/é", "c1"])


def test_a_message_waits_for_a_worker(connected: broker.Broker) -> None:
    """A message that was enqueued while no worker ran is consumed by the next one."""
    seen: list[str] = []
    dramatiq.actor(seen.append, broker=connected, actor_name=REFETCH_ACTOR, queue_name=REFETCH_ACTOR)
    broker.enqueue(connected, ["c1"])
    worker = dramatiq.Worker(connected, worker_threads=1, worker_timeout=50)

    worker.start()

    eventually(lambda: seen == ["c1"])
    worker.stop()


def test_a_failed_message_is_retried(connected: broker.Broker) -> None:
    """A worker whose database is unavailable for a moment does not lose the message."""
    seen: list[str] = []

    def stumble(connection_id: str) -> None:
        seen.append(connection_id)
        if len(seen) == 1:
            raise OutOfReachError("away for a moment")

    with working(connected, stumble):
        broker.enqueue(connected, ["c1"])

        eventually(lambda: seen == ["c1", "c1"], seconds=30)


def test_a_running_broker_answers_a_ping(connected: broker.Broker) -> None:
    """A ping of a running broker raises no error."""
    broker.ping(connected)


def test_an_unreachable_broker_is_an_error(scheme: str) -> None:
    """If no server listens, ping and enqueue raise an error soon, without the password."""
    made = broker.connect(f"{scheme}://user:hidden@127.0.0.1:{servers.free_ports(1)[0]}/0")

    complaints = [complaint(lambda: broker.ping(made)), complaint(lambda: broker.enqueue(made, ["c1"]))]

    assert "hidden" not in "".join(complaints)
    made.close()


def test_enqueue_to_a_hanging_broker_times_out(scheme: str) -> None:
    """If a server listens but never answers, enqueue ends within its timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = broker.connect(f"{scheme}://user:hidden@127.0.0.1:{silent.getsockname()[1]}/0")

        assert "hidden" not in complaint(lambda: broker.enqueue(made, ["c1"]))
        made.close()


def test_a_ping_of_a_hanging_broker_times_out(scheme: str) -> None:
    """If a server listens but never answers, a ping ends within its timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = broker.connect(f"{scheme}://user:hidden@127.0.0.1:{silent.getsockname()[1]}/0")

        assert "hidden" not in complaint(lambda: broker.ping(made))
        made.close()


def test_a_restarted_broker_is_used_again(test_run: servers.Run) -> None:
    """If the broker dies, only the messages enqueued meanwhile fail."""
    server = servers.start_valkey(test_run, "mortal")
    port = int(server.url.rsplit(":", 1)[1].removesuffix("/0"))
    made = broker.connect(server.url)
    broker.enqueue(made, ["c1"])

    server.kill()
    with pytest.raises(OutOfReachError):
        broker.enqueue(made, ["c2"])
    server = servers.start_valkey(test_run, "mortal", port)

    broker.enqueue(made, ["c3"])
    made.close()
    server.stop()


def test_dead_letters_are_not_kept_in_memory() -> None:
    """The in-memory broker discards failed messages: the work is still in the database."""
    made: Any = broker.connect("memory://")
    made.declare_queue(REFETCH_ACTOR)
    message: dramatiq.Message[None] = dramatiq.Message(REFETCH_ACTOR, REFETCH_ACTOR, ("c1",), {}, {})
    made.enqueue(message)
    consumer = made.consume(REFETCH_ACTOR, timeout=100)
    taken = next(consumer)
    assert taken is not None

    consumer.nack(taken)

    assert made.dead_letters == []
    assert list(made.dead_letters_by_queue[REFETCH_ACTOR]) == []
