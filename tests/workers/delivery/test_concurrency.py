import math
from contextlib import AbstractContextManager

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from workers.delivery.concurrency import PROMISE_SECONDS, SLOW_SECONDS, ConcurrencyLimits

NAMES = tuple("abcdefgh")


def hang(shares: ConcurrencyLimits, asks: list[str]) -> dict[str, int]:
    """Let those who ask begin, each with pushes that never end; return how many threads each has."""
    working = dict.fromkeys(asks, 0)
    for name in asks:
        working[name] += shares.enter(name)
    return working


@given(st.integers(1, 32), st.lists(st.sampled_from(NAMES), max_size=200))
def test_as_many_as_the_threads_can_be_halved_may_begin_to_hang(threads: int, asks: list[str]) -> None:
    """In whatever order they ask: one of them gets half at most, and whoever comes after them finds a thread."""
    most = int(math.log2(threads))
    shares = ConcurrencyLimits(threads)

    working = hang(shares, [name for name in asks if name in NAMES[:most]])

    assert max(working.values(), default=0) <= max(1, threads // 2)
    assert shares.enter("healthy")


@given(st.integers(2, 32), st.lists(st.sampled_from(NAMES), max_size=200))
def test_those_that_are_known_to_drag_leave_half(threads: int, asks: list[str]) -> None:
    """However many hang or fail, once that is known: whoever does not finds half of the threads free."""
    shares = ConcurrencyLimits(threads)
    for name in NAMES[::2]:
        shares.note(name, is_taken=False)
    slow, _time = slow_ones("".join(NAMES), threads=threads)

    assert sum(hang(shares, [name for name in asks if name in NAMES[::2]]).values()) <= threads // 2
    assert sum(hang(slow, asks).values()) <= threads // 2
    assert (shares.enter("healthy"), slow.enter("healthy")) == (True, True)


class Life(RuleBasedStateMachine):
    """Threads that come, push, fail and leave, as a process has them; what is granted is checked by what is known."""

    @initialize(threads=st.integers(1, 9))
    def begin(self, threads: int) -> None:
        """Start a process."""
        self.threads = threads
        self.time = 0.0
        self.shares = ConcurrencyLimits(threads, now=lambda: self.time)
        self.resting: list[str] = []
        self.pushing: list[tuple[str, float, AbstractContextManager[None]]] = []
        self.failing: set[str] = set()
        self.slow: set[str] = set()
        self.turned_away: list[str] = []
        self.promised: dict[str, float] = {}

    def working(self, name: str) -> int:
        """Return how many threads one has."""
        return self.resting.count(name) + sum(1 for each, *_ in self.pushing if each == name)

    def drags(self, name: str) -> bool:
        """Return whether one fails, or takes long."""
        hangs = any(each == name and self.time - began > SLOW_SECONDS for each, began, _ in self.pushing)
        return name in self.failing or name in self.slow or hangs

    def may(self, name: str) -> bool:
        """Return whether one may have one more thread."""
        working, half = self.working(name), max(1, self.threads // 2)
        free = self.threads - len(self.resting) - len(self.pushing)
        dragging = sum(self.working(each) for each in NAMES if self.drags(each))
        kept = sum(until > self.time for each, until in self.promised.items() if each != name)
        may = working < half and working < free
        if self.drags(name):
            may = may and working < half - dragging - kept and not (name in self.failing and working)
        return may

    @rule(name=st.sampled_from(NAMES[:4]))
    def enter(self, name: str) -> None:
        """Somebody is called for a subscription."""
        may = self.may(name)
        assert self.shares.enter(name) == may
        if may:
            self.resting.append(name)
            self.promised.pop(name, None)
        if name in self.turned_away and may:
            self.turned_away.remove(name)
        elif not may and not self.working(name) and name not in self.turned_away:
            self.turned_away.append(name)

    @rule()
    def turn(self) -> None:
        """Somebody has left: who waits longest of those that may begin is called, and a thread is kept for it."""
        turn = next((name for name in self.turned_away if self.may(name)), None)
        assert self.shares.next_turn() == turn
        if turn is not None:
            self.turned_away.remove(turn)
            self.promised[turn] = self.time + PROMISE_SECONDS

    @rule()
    def push(self) -> None:
        """Somebody who is at work begins a push."""
        if self.resting:
            name = self.resting.pop()
            push = self.shares.pushing(name)
            push.__enter__()
            self.pushing.append((name, self.time, push))

    @rule(index=st.integers(0, 8), is_taken=st.booleans(), leaves=st.booleans())
    def settle(self, index: int, *, is_taken: bool, leaves: bool) -> None:
        """A push ends."""
        if index < len(self.pushing):
            name, began, push = self.pushing.pop(index)
            push.__exit__(None, None, None)
            (self.slow.add if self.time - began > SLOW_SECONDS else self.slow.discard)(name)
            (self.failing.discard if is_taken else self.failing.add)(name)
            self.resting.append(name)
            assert self.shares.note(name, is_taken=is_taken) == (not is_taken and self.working(name) > 1)
            if leaves:
                self.resting.remove(name)
                self.shares.leave(name)

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.time += seconds

    @invariant()
    def there_is_always_a_thread_to_ask_with(self) -> None:
        """Never more threads are lent than there are."""
        if hasattr(self, "threads"):
            assert len(self.resting) + len(self.pushing) <= self.threads


TestNobodyGetsMoreThanAShare = Life.TestCase


def test_who_is_turned_away_is_heard() -> None:
    """Who works looks once more for each time that somebody was turned away, and then leaves."""
    shares = ConcurrencyLimits(1)
    entered = [shares.enter("a"), shares.enter("a"), shares.enter("a")]

    assert entered == [True, False, False]
    assert [shares.stays("a"), shares.stays("a")] == [True, False]
    assert shares.enter("a")


def test_one_that_is_quick_again_gets_its_half_again() -> None:
    """A push that took long is forgotten with the next that did not."""
    time = [0.0]
    shares = ConcurrencyLimits(8, now=lambda: time[0])
    with shares.pushing("a"):
        time[0] += SLOW_SECONDS + 1
        during = hang(shares, ["a"] * 8)["a"]
    for _ in range(during):
        shares.leave("a")
    with shares.pushing("a"):
        pass

    assert (during, hang(shares, ["a"] * 8)["a"]) == (2, 4)


def test_those_that_drag_take_turns() -> None:
    """Who has just left, and has much to do, comes after who was turned away meanwhile; both get on."""
    shares, _time = slow_ones("ab", threads=2)
    turns = []
    assert shares.enter("a")
    for here, waits in ("ab", "ba", "ab"):
        assert not shares.enter(waits)
        shares.leave(here)
        turns.append(shares.next_turn())
        # Calls for it are always there; they come before the other's.
        assert not shares.enter(here)
        assert shares.enter(waits)

    assert turns == ["b", "a", "b"]


def test_a_thread_is_not_kept_for_long() -> None:
    """A call that never arrives, as where the broker is away, costs the others a moment."""
    shares, time = slow_ones("ab", threads=2)
    shares.enter("a")
    shares.enter("b")
    shares.leave("a")
    turn = shares.next_turn()
    before = shares.enter("a")
    time[0] += PROMISE_SECONDS

    assert (turn, before, shares.enter("a")) == ("b", False, True)


def slow_ones(names: str, *, threads: int) -> tuple[ConcurrencyLimits, list[float]]:
    """Return shares that know these as slow, and the time, to be moved."""
    time = [0.0]
    shares = ConcurrencyLimits(threads, now=lambda: time[0])
    for name in names:
        with shares.pushing(name):
            time[0] += SLOW_SECONDS + 1
    return shares, time
