import math
from contextlib import AbstractContextManager

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from workers.delivery.concurrency import RESERVATION_SECONDS, SLOW_PUSH_SECONDS, ConcurrencyLimits

NAMES = tuple("abcdefgh")


def acquire_all(limits: ConcurrencyLimits, requests: list[str]) -> dict[str, int]:
    """Request threads whose pushes never end; return how many threads each subscription got."""
    active = dict.fromkeys(requests, 0)
    for name in requests:
        active[name] += limits.acquire(name)
    return active


@given(st.integers(1, 32), st.lists(st.sampled_from(NAMES), max_size=200))
def test_as_many_as_the_threads_can_be_halved_may_begin_to_hang(threads: int, requests: list[str]) -> None:
    """In whatever order they request threads: each gets half at most, and another subscription still gets a thread."""
    most = int(math.log2(threads))
    limits = ConcurrencyLimits(threads)

    active = acquire_all(limits, [name for name in requests if name in NAMES[:most]])

    assert max(active.values(), default=0) <= max(1, threads // 2)
    assert limits.acquire("healthy")


@given(st.integers(2, 32), st.lists(st.sampled_from(NAMES), max_size=200))
def test_degraded_subscriptions_leave_half(threads: int, requests: list[str]) -> None:
    """However many are known to hang or fail: half of the threads stay free for healthy subscriptions."""
    limits = ConcurrencyLimits(threads)
    for name in NAMES[::2]:
        limits.record_result(name, is_acknowledged=False)
    slow, _time = slow_limits("".join(NAMES), threads=threads)

    assert sum(acquire_all(limits, [name for name in requests if name in NAMES[::2]]).values()) <= threads // 2
    assert sum(acquire_all(slow, requests).values()) <= threads // 2
    assert (limits.acquire("healthy"), slow.acquire("healthy")) == (True, True)


class ProcessThreads(RuleBasedStateMachine):
    """Threads that start, push, fail and end, as in a process; a simple model predicts what is granted."""

    @initialize(threads=st.integers(1, 9))
    def begin(self, threads: int) -> None:
        """Start a process."""
        self.threads = threads
        self.time = 0.0
        self.limits = ConcurrencyLimits(threads, now=lambda: self.time)
        self.idle: list[str] = []
        self.pushing: list[tuple[str, float, AbstractContextManager[None]]] = []
        self.failing: set[str] = set()
        self.slow: set[str] = set()
        self.waiting: list[str] = []
        self.reserved: dict[str, float] = {}

    def active(self, name: str) -> int:
        """Return how many threads a subscription has."""
        return self.idle.count(name) + sum(1 for each, *_ in self.pushing if each == name)

    def is_degraded(self, name: str) -> bool:
        """Return whether a subscription fails or is slow."""
        hangs = any(each == name and self.time - began > SLOW_PUSH_SECONDS for each, began, _ in self.pushing)
        return name in self.failing or name in self.slow or hangs

    def has_capacity(self, name: str) -> bool:
        """Return whether a subscription may have one more thread."""
        active, half = self.active(name), max(1, self.threads // 2)
        free = self.threads - len(self.idle) - len(self.pushing)
        degraded = sum(self.active(each) for each in NAMES if self.is_degraded(each))
        reserved = sum(until > self.time for each, until in self.reserved.items() if each != name)
        may = active < half and active < free
        if self.is_degraded(name):
            may = may and active < half - degraded - reserved and not (name in self.failing and active)
        return may

    @rule(name=st.sampled_from(NAMES[:4]))
    def acquire(self, name: str) -> None:
        """A message for a subscription arrives."""
        may = self.has_capacity(name)
        assert self.limits.acquire(name) == may
        if may:
            self.idle.append(name)
            self.reserved.pop(name, None)
        if name in self.waiting and may:
            self.waiting.remove(name)
        elif not may and not self.active(name) and name not in self.waiting:
            self.waiting.append(name)

    @rule()
    def reserve(self) -> None:
        """A thread has ended: the first waiting subscription within its limit gets a reservation."""
        first = next((name for name in self.waiting if self.has_capacity(name)), None)
        assert self.limits.reserve_next_waiting() == first
        if first is not None:
            self.waiting.remove(first)
            self.reserved[first] = self.time + RESERVATION_SECONDS

    @rule()
    def push(self) -> None:
        """An idle thread begins a push."""
        if self.idle:
            name = self.idle.pop()
            push = self.limits.track_push(name)
            push.__enter__()
            self.pushing.append((name, self.time, push))

    @rule(index=st.integers(0, 8), is_acknowledged=st.booleans(), releases=st.booleans())
    def end_push(self, index: int, *, is_acknowledged: bool, releases: bool) -> None:
        """A push ends."""
        if index < len(self.pushing):
            name, began, push = self.pushing.pop(index)
            push.__exit__(None, None, None)
            (self.slow.add if self.time - began > SLOW_PUSH_SECONDS else self.slow.discard)(name)
            (self.failing.discard if is_acknowledged else self.failing.add)(name)
            self.idle.append(name)
            exceeds = self.limits.record_result(name, is_acknowledged=is_acknowledged)
            assert exceeds == (not is_acknowledged and self.active(name) > 1)
            if releases:
                self.idle.remove(name)
                self.limits.release(name)

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.time += seconds

    @invariant()
    def no_more_threads_than_there_are(self) -> None:
        """Never more threads are granted than the process has."""
        if hasattr(self, "threads"):
            assert len(self.idle) + len(self.pushing) <= self.threads


TestNobodyGetsMoreThanItsLimit = ProcessThreads.TestCase


def test_a_refused_request_leads_to_another_look() -> None:
    """A thread that found nothing due looks once more if a request was refused meanwhile, and then ends."""
    limits = ConcurrencyLimits(1)
    acquired = [limits.acquire("a"), limits.acquire("a"), limits.acquire("a")]

    assert acquired == [True, False, False]
    assert [limits.release_if_idle("a"), limits.release_if_idle("a")] == [False, True]
    assert limits.acquire("a")


def test_one_that_is_quick_again_gets_its_half_again() -> None:
    """A slow push no longer counts after the next quick one."""
    time = [0.0]
    limits = ConcurrencyLimits(8, now=lambda: time[0])
    with limits.track_push("a"):
        time[0] += SLOW_PUSH_SECONDS + 1
        during = acquire_all(limits, ["a"] * 8)["a"]
    for _ in range(during):
        limits.release("a")
    with limits.track_push("a"):
        pass

    assert (during, acquire_all(limits, ["a"] * 8)["a"]) == (2, 4)


def test_slow_subscriptions_take_turns() -> None:
    """One that has just released a thread waits for one that was refused meanwhile; both make progress."""
    limits, _time = slow_limits("ab", threads=2)
    reservations = []
    assert limits.acquire("a")
    for current, waiting in ("ab", "ba", "ab"):
        assert not limits.acquire(waiting)
        limits.release(current)
        reservations.append(limits.reserve_next_waiting())
        # The current one always has messages, and they arrive first.
        assert not limits.acquire(current)
        assert limits.acquire(waiting)

    assert reservations == ["b", "a", "b"]


def test_a_reservation_ends_soon() -> None:
    """A message that never arrives, for example because the broker is away, delays the others only briefly."""
    limits, time = slow_limits("ab", threads=2)
    limits.acquire("a")
    limits.acquire("b")
    limits.release("a")
    reserved = limits.reserve_next_waiting()
    before = limits.acquire("a")
    time[0] += RESERVATION_SECONDS

    assert (reserved, before, limits.acquire("a")) == ("b", False, True)


def slow_limits(names: str, *, threads: int) -> tuple[ConcurrencyLimits, list[float]]:
    """Return limits for which these subscriptions are slow, and the time, which a test may advance."""
    time = [0.0]
    limits = ConcurrencyLimits(threads, now=lambda: time[0])
    for name in names:
        with limits.track_push(name):
            time[0] += SLOW_PUSH_SECONDS + 1
    return limits, time
