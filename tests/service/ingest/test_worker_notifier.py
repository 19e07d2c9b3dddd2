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
from tests.support.servers import free_ports


class Line:
    """A way to workers that can be away, or hang.

    Attributes:
        called: Whom it was called for, in order.
        error: Raised instead, where it is set.
        gate: Closed, it holds every call up.
    """

    def __init__(self) -> None:
        self.called: list[str] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def call(self, connection_ids: Collection[str]) -> None:
        """Call, or fail, or wait."""
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.called += connection_ids


@pytest.fixture
def line() -> Iterator[Line]:
    """The way to workers."""
    line = Line()
    yield line
    line.gate.set()


@pytest.fixture
def metrics() -> Metrics:
    """What was lost."""
    return Metrics()


@contextmanager
def waking(call: Callable[[Collection[str]], None], metrics: Metrics) -> Iterator[WorkerNotifier]:
    wake = WorkerNotifier(enqueue=call, metrics=metrics)
    wake.start()
    yield wake
    wake.stop(0.1)


def lost(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("meldwatch_worker_notifications_failed_total") or 0


def test_calls_are_made_in_order(line: Line, metrics: Metrics) -> None:
    """Whoever is woken is called, one after the other; none of nobody."""
    with waking(line.call, metrics) as wake:
        wake(["a", "b"])
        wake([])
        wake(["c"])

        assert eventually(lambda: len(line.called) == 3)
    assert (line.called, lost(metrics)) == (["a", "b", "c"], 0)


def test_a_broker_that_hangs_delays_nobody(line: Line, metrics: Metrics) -> None:
    """While a call hangs, a thousand others are taken at once, and are made when it goes on."""
    line.gate.clear()
    with waking(line.call, metrics) as wake:
        began = time.monotonic()
        for number in range(1000):
            wake([f"c{number}"])
        seconds = time.monotonic() - began
        line.gate.set()

        assert eventually(lambda: len(line.called) == 1000)
    assert seconds < 0.5
    assert lost(metrics) == 0


def test_a_broker_that_is_away_is_a_metric(line: Line, metrics: Metrics) -> None:
    """What the broker does not take is counted, and the next calls are made when it is back."""
    line.error = OutOfReachError("away")
    with waking(line.call, metrics) as wake:
        wake(["a", "b", "c"])
        eventually(lambda: lost(metrics) == 3)
        line.error = None
        wake(["d"])

        assert eventually(lambda: line.called) == ["d"]


def test_an_unforeseen_error_ends_nothing(line: Line, metrics: Metrics) -> None:
    """Whatever a call raises, it is counted as lost, and the thread goes on."""
    line.error = RuntimeError("unforeseen")
    with waking(line.call, metrics) as wake:
        wake(["a"])
        eventually(lambda: lost(metrics) == 1)
        line.error = None
        wake(["b"])

        assert eventually(lambda: line.called) == ["b"]
        assert wake.is_alive()


def test_calls_beyond_the_queue_are_counted_as_lost(line: Line, metrics: Metrics) -> None:
    """A queue that is full takes no more, without waiting, and every call is either made or counted."""
    line.gate.clear()
    with waking(line.call, metrics) as wake:
        wake(f"c{number}" for number in range(MAX_QUEUE_LENGTH + 50))  # type: ignore[arg-type]
        missed = lost(metrics)
        line.gate.set()

        assert eventually(lambda: len(line.called) == MAX_QUEUE_LENGTH + 50 - missed)
    assert 49 <= missed <= 50


def test_stopping_makes_the_calls_that_wait(line: Line, metrics: Metrics) -> None:
    """A process that ends still calls for what it stored."""
    wake = WorkerNotifier(enqueue=line.call, metrics=metrics)
    wake.start()
    wake([f"c{number}" for number in range(500)])
    wake.stop()

    assert (len(line.called), wake.is_alive()) == (500, False)


@pytest.mark.parametrize("waiting", [1, MAX_QUEUE_LENGTH + 10], ids=["few", "a full queue"])
def test_stopping_waits_for_nobody_for_long(line: Line, metrics: Metrics, waiting: int) -> None:
    """Behind a broker that hangs the end comes all the same."""
    line.gate.clear()
    wake = WorkerNotifier(enqueue=line.call, metrics=metrics)
    wake.start()
    wake([f"c{number}" for number in range(waiting)])
    began = time.monotonic()
    wake.stop(0.2)

    assert time.monotonic() - began < 1


def test_a_real_broker_that_is_not_there_delays_nobody(metrics: Metrics) -> None:
    """Where nobody listens, the caller notices nothing and the losses are counted."""
    (port,) = free_ports(1)
    broker = brokers.connect(f"redis://127.0.0.1:{port}")
    with waking(lambda ids: brokers.enqueue(broker, ids), metrics) as wake:
        began = time.monotonic()
        wake(["a", "b", "c"])
        seconds = time.monotonic() - began

        assert eventually(lambda: lost(metrics) == 3)
    broker.close()
    assert seconds < 0.1


def test_it_lives_from_start_to_stop(line: Line, metrics: Metrics) -> None:
    """Whoever watches the process can tell whether its thread is there."""
    wake = WorkerNotifier(enqueue=line.call, metrics=metrics)
    lives = [wake.is_alive()]
    wake.start()
    lives.append(wake.is_alive())
    wake.stop()
    lives.append(wake.is_alive())

    assert lives == [False, True, False]
