import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.meld.webhook import RefusedWebhook
from service.rejected.limits import (
    LIKELY_BURST,
    MAX_QUEUE_BYTES,
    MAX_QUEUE_LENGTH,
    MAX_REJECTED_BODY_BYTES,
    UNLIKELY_BURST,
    UNLIKELY_PER_SECOND,
)
from service.rejected.queue import RejectionQueue, TokenBucket
from service.rejected.store import InsertResult
from tests.service.rejected.refused_requests import noise, refused
from tests.support.polling import eventually
from tests.support.webhook_factory import body


class FakeStore:
    """Stores in memory, and can be made to wait or to fail: stands in for ``RejectionStore``."""

    def __init__(self) -> None:
        self.kept: list[RefusedWebhook] = []
        self.sizes: list[int] = []
        self.error: Exception | None = None
        self.poison: RefusedWebhook | None = None
        self.gate = threading.Event()
        self.gate.set()

    def insert(self, batch: Sequence[RefusedWebhook]) -> dict[InsertResult, int]:
        """Store a batch, or fail, or wait."""
        self.sizes.append(len(batch))
        self.gate.wait()
        if self.error is not None:
            raise self.error
        if self.poison in batch:
            raise ValueError
        self.kept += batch
        return {"kept": len(batch)}


class QueueSetup:
    """A rejection queue in front of a fake store, with a clock that is set by hand."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.metrics = Metrics()
        self.now = 0.0
        self.queue = RejectionQueue(
            insert=self.store.insert, metrics=self.metrics, clock=lambda: self.now, pause_seconds=0.001
        )

    def count(self, result: str) -> float:
        """Return the count of requests with this result."""
        return self.metrics.registry.get_sample_value("meldwatch_rejections_total", {"result": result}) or 0


@contextmanager
def running(setup: QueueSetup) -> Iterator[QueueSetup]:
    setup.queue.start()
    try:
        yield setup
    finally:
        setup.store.gate.set()
        setup.queue.stop()


@pytest.fixture
def setup() -> Iterator[QueueSetup]:
    """A running queue."""
    with running(QueueSetup()) as made:
        yield made


gaps = st.lists(st.floats(0, 5), max_size=60)


@given(gaps, st.integers(1, 5), st.floats(0.1, 5))
def test_a_bucket_never_exceeds_its_rate(gaps: list[float], burst: int, rate: float) -> None:
    """In any interval it permits at most the burst, plus the rate times the interval."""
    bucket, now, passed = TokenBucket(per_second=rate, burst=burst), 0.0, []
    for gap in gaps:
        now += gap
        if bucket.take(now):
            passed.append(now)

    for first, begin in enumerate(passed):
        for count, end in enumerate(passed[first:], start=1):
            assert count <= burst + rate * (end - begin) + 1e-6


def test_a_bucket_is_full_at_first_and_fills_again() -> None:
    """Rare requests always pass."""
    bucket = TokenBucket(per_second=2, burst=3)

    first = [bucket.take(10.0) for _ in range(4)]
    later = [bucket.take(now) for now in (10.4, 10.5, 10.6, 100, 100, 100, 100)]

    assert first == [True, True, True, False]
    assert later == [False, True, False, True, True, True, False]


def test_a_refused_request_is_stored(setup: QueueSetup) -> None:
    """The thread stores and counts it."""
    one = refused()
    setup.queue(one)

    eventually(lambda: setup.store.kept == [one])
    eventually(lambda: setup.count("kept") == 1)


def test_noise_takes_no_room_from_likely_requests(setup: QueueSetup) -> None:
    """A flood of noise is limited to its own rate; the dropped requests are counted."""
    for _ in range(10 * UNLIKELY_BURST):
        setup.queue(noise())
    genuine = [refused(body("c1")) for _ in range(200)]
    for one in genuine:
        setup.queue(one)
    setup.now += 3
    for _ in range(10):
        setup.queue(noise())

    eventually(lambda: {one.body for one in genuine} <= {one.body for one in setup.store.kept})
    let_through = UNLIKELY_BURST + 3 * UNLIKELY_PER_SECOND
    eventually(lambda: setup.count("kept") == len(genuine) + let_through)
    assert setup.count("over_rate") == 10 * UNLIKELY_BURST + 10 - let_through


def test_likely_requests_are_limited_too(setup: QueueSetup) -> None:
    """Those of all reasons together: anybody can forge them."""
    for reason in ("wrong", "too_old"):
        for _ in range(LIKELY_BURST // 2 + 5):
            setup.queue(refused(b'{"eventId":"e1"}', reason))

    eventually(lambda: setup.count("kept") == LIKELY_BURST)
    assert setup.count("over_rate") == 10


def test_a_slow_database_delays_no_request(setup: QueueSetup) -> None:
    """While nothing is stored, each call returns at once; requests beyond the queue's length are counted as lost."""
    setup.store.gate.clear()
    setup.queue(refused())
    eventually(lambda: setup.store.sizes == [1])
    for number in range(MAX_QUEUE_LENGTH + 5):
        setup.now = number
        setup.queue(refused(b'"eventId"'))
    lost = setup.count("lost")
    setup.store.gate.set()

    assert lost == 5
    eventually(lambda: setup.count("kept") == 1 + MAX_QUEUE_LENGTH)


def test_the_bytes_of_waiting_requests_are_bounded(setup: QueueSetup) -> None:
    """Large bodies fill the queue before many requests do, until they are stored."""
    large = refused(b'{"eventId":"e1"}' + b" " * (MAX_REJECTED_BODY_BYTES - 16))
    capacity = MAX_QUEUE_BYTES // MAX_REJECTED_BODY_BYTES
    setup.store.gate.clear()
    for _ in range(capacity + 5):
        setup.queue(large)
    lost = setup.count("lost")
    setup.store.gate.set()
    eventually(lambda: setup.count("kept") == capacity)
    setup.queue(large)

    assert lost == 5
    eventually(lambda: setup.count("kept") == capacity + 1)


def test_only_the_beginning_of_a_body_is_kept(setup: QueueSetup) -> None:
    """What is cut off never waits in memory; the size says how long the body was."""
    setup.queue(replace(refused(), body=b"x" * (MAX_REJECTED_BODY_BYTES + 7)))

    eventually(lambda: setup.count("kept") == 1)
    assert setup.store.kept[0].body == b"x" * MAX_REJECTED_BODY_BYTES


def test_an_unreachable_database_costs_only_the_waiting_requests(setup: QueueSetup) -> None:
    """They are counted as lost; later ones are stored when the database is back."""
    setup.store.error = OutOfReachError("The database does not answer.")
    setup.queue(refused())
    eventually(lambda: setup.count("lost") == 1)
    setup.store.error = None
    setup.queue(refused())

    eventually(lambda: setup.count("kept") == 1)


def test_a_request_that_cannot_be_stored_does_not_fail_its_batch(setup: QueueSetup) -> None:
    """The others are stored, and the thread survives."""
    setup.store.gate.clear()
    setup.queue(refused())
    eventually(lambda: setup.store.sizes == [1])
    several = [refused(body("c1")) for _ in range(9)]
    setup.store.poison = several[4]
    for one in several:
        setup.queue(one)
    setup.store.gate.set()

    eventually(lambda: setup.count("kept") == 9)
    assert setup.count("lost") == 1
    assert setup.queue.is_alive()


def test_waiting_requests_are_stored_at_the_end() -> None:
    """After that the thread has ended."""
    setup = QueueSetup()
    several = [refused(body("c1")) for _ in range(700)]
    with running(setup):
        setup.store.gate.clear()
        for one in several:
            setup.queue(one)

    assert setup.store.kept == several
    assert not setup.queue.is_alive()
