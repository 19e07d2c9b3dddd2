import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import pytest

from runtime import broker as brokers
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from service.ingest.worker_notifier import MAX_QUEUE_LENGTH, WorkerNotifier
from tests.support.polling import eventually
from tests.support.processes.servers import free_ports


class FakeBroker:
    """A broker that can be out of reach, or hang.

    Attributes:
        called: Whom it was called for, in order.
        error: Raised instead, where it is set.
        gate: Closed, it holds every call up.
    """

    def __init__(self) -> None:
        self.enqueued: list[str] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def enqueue(self, connection_ids: Collection[str]) -> None:
        """Enqueue, or fail, or wait."""
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.enqueued += connection_ids


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """The broker."""
    broker = FakeBroker()
    yield broker
    broker.gate.set()


@pytest.fixture
def metrics() -> Metrics:
    """The metrics."""
    return Metrics()


@contextmanager
def running_notifier(enqueue: Callable[[Collection[str]], None], metrics: Metrics) -> Iterator[WorkerNotifier]:
    notify = WorkerNotifier(enqueue=enqueue, metrics=metrics)
    notify.start()
    yield notify
    notify.stop(0.1)


def lost(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("meldwatch_worker_notifications_failed_total") or 0


def test_messages_are_sent_in_order(broker: FakeBroker, metrics: Metrics) -> None:
    """One message for each connection id, in order."""
    with running_notifier(broker.enqueue, metrics) as notify:
        notify(["a", "b"])
        notify([])
        notify(["c"])

        assert eventually(lambda: len(broker.enqueued) == 3)
    assert (broker.enqueued, lost(metrics)) == (["a", "b", "c"], 0)


def test_a_hanging_broker_delays_no_caller(broker: FakeBroker, metrics: Metrics) -> None:
    """While the broker hangs, a thousand notifications are accepted at once, and sent afterwards."""
    broker.gate.clear()
    with running_notifier(broker.enqueue, metrics) as notify:
        began = time.monotonic()
        for number in range(1000):
            notify([f"c{number}"])
        seconds = time.monotonic() - began
        broker.gate.set()

        assert eventually(lambda: len(broker.enqueued) == 1000)
    assert seconds < 0.5
    assert lost(metrics) == 0


def test_an_unreachable_broker_is_a_metric(broker: FakeBroker, metrics: Metrics) -> None:
    """Rejected notifications are counted; later ones are sent when the broker is back."""
    broker.error = OutOfReachError("away")
    with running_notifier(broker.enqueue, metrics) as notify:
        notify(["a", "b", "c"])
        eventually(lambda: lost(metrics) == 3)
        broker.error = None
        notify(["d"])

        assert eventually(lambda: broker.enqueued) == ["d"]


def test_an_unexpected_error_does_not_end_the_thread(broker: FakeBroker, metrics: Metrics) -> None:
    """Any exception is counted as lost, and the thread survives."""
    broker.error = RuntimeError("unforeseen")
    with running_notifier(broker.enqueue, metrics) as notify:
        notify(["a"])
        eventually(lambda: lost(metrics) == 1)
        broker.error = None
        notify(["b"])

        assert eventually(lambda: broker.enqueued) == ["b"]
        assert notify.is_alive()


def test_notifications_beyond_the_queue_are_counted_as_lost(broker: FakeBroker, metrics: Metrics) -> None:
    """A full queue refuses without waiting; every notification is either sent or counted."""
    broker.gate.clear()
    with running_notifier(broker.enqueue, metrics) as notify:
        notify(f"c{number}" for number in range(MAX_QUEUE_LENGTH + 50))  # type: ignore[arg-type]
        missed = lost(metrics)
        broker.gate.set()

        assert eventually(lambda: len(broker.enqueued) == MAX_QUEUE_LENGTH + 50 - missed)
    assert 49 <= missed <= 50


def test_stopping_sends_the_waiting_notifications(broker: FakeBroker, metrics: Metrics) -> None:
    """A process that stops still sends them."""
    notify = WorkerNotifier(enqueue=broker.enqueue, metrics=metrics)
    notify.start()
    notify([f"c{number}" for number in range(500)])
    notify.stop()

    assert (len(broker.enqueued), notify.is_alive()) == (500, False)


@pytest.mark.parametrize("waiting", [1, MAX_QUEUE_LENGTH + 10], ids=["few", "a full queue"])
def test_stopping_has_a_timeout(broker: FakeBroker, metrics: Metrics, waiting: int) -> None:
    """Although the broker hangs, stopping has a timeout."""
    broker.gate.clear()
    notify = WorkerNotifier(enqueue=broker.enqueue, metrics=metrics)
    notify.start()
    notify([f"c{number}" for number in range(waiting)])
    began = time.monotonic()
    notify.stop(0.2)

    assert time.monotonic() - began < 1


def test_a_missing_broker_server_delays_no_caller(metrics: Metrics) -> None:
    """Without a server the caller is not delayed, and the losses are counted."""
    (port,) = free_ports(1)
    broker = brokers.connect(f"redis://127.0.0.1:{port}")
    with running_notifier(lambda ids: brokers.enqueue(broker, ids), metrics) as notify:
        began = time.monotonic()
        notify(["a", "b", "c"])
        seconds = time.monotonic() - began

        assert eventually(lambda: lost(metrics) == 3)
    broker.close()
    assert seconds < 0.1


def test_is_alive_from_start_to_stop(broker: FakeBroker, metrics: Metrics) -> None:
    """The supervisor sees whether the thread runs."""
    notify = WorkerNotifier(enqueue=broker.enqueue, metrics=metrics)
    lives = [notify.is_alive()]
    notify.start()
    lives.append(notify.is_alive())
    notify.stop()
    lives.append(notify.is_alive())

    assert lives == [False, True, False]
