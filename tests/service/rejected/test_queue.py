import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.meld.webhook import MAX_REJECTED_BODY_BYTES, RefusedWebhook
from service.rejected.queue import (
    LARGEST_QUEUE_BYTES,
    LIKELY_BURST,
    LONGEST_QUEUE,
    UNLIKELY_BURST,
    UNLIKELY_RATE,
    RejectionQueue,
    TokenBucket,
)
from service.rejected.store import Result
from tests.service.rejected.refused_requests import noise, refused
from tests.support.polling import eventually
from tests.support.webhook_factory import body


class Shelf:
    """Keeps in memory, and can be told to wait or to fail: stands for ``Evidence.keep``."""

    def __init__(self) -> None:
        self.kept: list[RefusedWebhook] = []
        self.sizes: list[int] = []
        self.error: Exception | None = None
        self.poison: RefusedWebhook | None = None
        self.gate = threading.Event()
        self.gate.set()

    def keep(self, batch: Sequence[RefusedWebhook]) -> dict[Result, int]:
        """Keep a batch, or fail, or wait."""
        self.sizes.append(len(batch))
        self.gate.wait()
        if self.error is not None:
            raise self.error
        if self.poison in batch:
            raise ValueError
        self.kept += batch
        return {"kept": len(batch)}


class Rejecting:
    """The part before a shelf, in a time that is moved by hand."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.metrics = Metrics()
        self.now = 0.0
        self.reject = RejectionQueue(
            keep=self.shelf.keep, metrics=self.metrics, clock=lambda: self.now, pause_seconds=0.001
        )

    def count(self, result: str) -> float:
        """Return how many came to this."""
        return self.metrics.registry.get_sample_value("meldwatch_rejections_total", {"result": result}) or 0


@contextmanager
def running(rejecting: Rejecting) -> Iterator[Rejecting]:
    rejecting.reject.start()
    try:
        yield rejecting
    finally:
        rejecting.shelf.gate.set()
        rejecting.reject.stop()


@pytest.fixture
def rejecting() -> Iterator[Rejecting]:
    """The part, at work."""
    with running(Rejecting()) as made:
        yield made


gaps = st.lists(st.floats(0, 5), max_size=60)


@given(gaps, st.integers(1, 5), st.floats(0.1, 5))
def test_a_bucket_never_lets_more_through(gaps: list[float], burst: int, rate: float) -> None:
    """Over any stretch of time it is the burst, and the rate times that stretch, at most."""
    bucket, now, passed = TokenBucket(rate=rate, burst=burst), 0.0, []
    for gap in gaps:
        now += gap
        if bucket.take(now):
            passed.append(now)

    for first, begin in enumerate(passed):
        for count, end in enumerate(passed[first:], start=1):
            assert count <= burst + rate * (end - begin) + 1e-6


def test_a_bucket_is_full_at_first_and_fills_again() -> None:
    """Who comes seldom always passes."""
    bucket = TokenBucket(rate=2, burst=3)

    first = [bucket.take(10.0) for _ in range(4)]
    later = [bucket.take(now) for now in (10.4, 10.5, 10.6, 100, 100, 100, 100)]

    assert first == [True, True, True, False]
    assert later == [False, True, False, True, True, True, False]


def test_what_was_refused_is_kept(rejecting: Rejecting) -> None:
    """By a thread of its own, and counted."""
    one = refused()
    rejecting.reject(one)

    eventually(lambda: rejecting.shelf.kept == [one])
    eventually(lambda: rejecting.count("kept") == 1)


def test_noise_takes_no_room_from_what_may_be_melds(rejecting: Rejecting) -> None:
    """A flood of it is let through by the drop, and counted."""
    for _ in range(10 * UNLIKELY_BURST):
        rejecting.reject(noise())
    genuine = [refused(body("c1")) for _ in range(200)]
    for one in genuine:
        rejecting.reject(one)
    rejecting.now += 3
    for _ in range(10):
        rejecting.reject(noise())

    eventually(lambda: {one.body for one in genuine} <= {one.body for one in rejecting.shelf.kept})
    let_through = UNLIKELY_BURST + 3 * UNLIKELY_RATE
    eventually(lambda: rejecting.count("kept") == len(genuine) + let_through)
    assert rejecting.count("over_rate") == 10 * UNLIKELY_BURST + 10 - let_through


def test_a_flood_of_forgeries_takes_nothing_from_what_is_signed_well(rejecting: Rejecting) -> None:
    """They are wrong; what is too old has a rate of its own."""
    forged = refused(b'{"eventId":"e1"}')
    for _ in range(LIKELY_BURST + 10):
        rejecting.reject(forged)
    rejecting.reject(refused(reason="too_old"))

    eventually(lambda: rejecting.count("kept") == LIKELY_BURST + 1)
    assert rejecting.count("over_rate") == 10


def test_nobody_waits_for_a_slow_database(rejecting: Rejecting) -> None:
    """It returns at once while nothing is written; beyond what may wait, by number or by bytes, it is dropped."""
    rejecting.shelf.gate.clear()
    rejecting.reject(refused())
    eventually(lambda: rejecting.shelf.sizes == [1])
    large = refused(b'"eventId"' + b"x" * (MAX_REJECTED_BODY_BYTES - 9))
    most = LARGEST_QUEUE_BYTES // MAX_REJECTED_BODY_BYTES
    for _ in range(most + 5):
        rejecting.reject(large)
    by_bytes = rejecting.count("lost")
    rejecting.now += 1_000
    small = [refused(b'"eventId"', reason) for reason in ("wrong", "too_old", "in_the_future") for _ in range(900)]
    for one in small:
        rejecting.reject(one)

    assert by_bytes == 5
    assert rejecting.count("lost") > 5
    assert rejecting.reject._queue.qsize() <= LONGEST_QUEUE


def test_room_comes_back_when_it_was_written(rejecting: Rejecting) -> None:
    """What is counted as waiting is what waits."""
    large = refused(b'"eventId"' + b"x" * (MAX_REJECTED_BODY_BYTES - 9))
    most = LARGEST_QUEUE_BYTES // MAX_REJECTED_BODY_BYTES
    for round_ in range(1, 4):
        for _ in range(most):
            rejecting.reject(large)
        eventually(lambda count=round_ * most: rejecting.count("kept") == count)
        rejecting.now += 1_000

    assert rejecting.count("lost") == 0


def test_a_database_that_is_away_costs_what_waited(rejecting: Rejecting) -> None:
    """That is counted as lost, and the next is kept when it is back: Meld sends its own again."""
    rejecting.shelf.error = OutOfReachError("The database does not answer.")
    rejecting.reject(refused())
    eventually(lambda: rejecting.count("lost") == 1)
    rejecting.shelf.error = None
    rejecting.reject(refused())

    eventually(lambda: rejecting.count("kept") == 1)


def test_one_that_cannot_be_kept_spoils_no_batch(rejecting: Rejecting) -> None:
    """The others of its batch are kept, and the thread lives on."""
    rejecting.shelf.gate.clear()
    rejecting.reject(refused())
    eventually(lambda: rejecting.shelf.sizes == [1])
    several = [refused(body("c1")) for _ in range(9)]
    rejecting.shelf.poison = several[4]
    for one in several:
        rejecting.reject(one)
    rejecting.shelf.gate.set()

    eventually(lambda: rejecting.count("kept") == 9)
    assert rejecting.count("lost") == 1
    assert rejecting.reject.is_alive()


def test_what_waits_is_written_when_it_ends() -> None:
    """Then its thread is gone."""
    rejecting = Rejecting()
    several = [refused(body("c1")) for _ in range(700)]
    with running(rejecting):
        rejecting.shelf.gate.clear()
        for one in several:
            rejecting.reject(one)

    assert rejecting.shelf.kept == several
    assert not rejecting.reject.is_alive()
