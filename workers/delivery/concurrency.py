"""Share: how many of a process's threads one subscription may hold, so that no consumer takes them all.

Nobody knows of a consumer that it hangs before it does. So whoever wants one more thread must leave at least as many
free as it holds already: the first gets half, the next half of what is left, and there is one for whoever comes after
them. What drags, because its last push failed or because one takes long, shares half of the threads with all others
that drag, by turns where that is not enough for all; one whose last push failed gets one.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

SLOW_SECONDS = 2.0
"""A push that takes longer makes its subscription one that drags, from that moment on until a quicker one is taken."""


PROMISE_SECONDS = 2.0
"""How long a thread is kept for one whose turn it is: time for its call to arrive."""


class ConcurrencyLimits:
    """Who is at work for whom, in one process.

    Args:
        threads: How many threads there are.
        now: The time in seconds, from whenever on.
    """

    def __init__(self, threads: int, *, now: Callable[[], float] = monotonic) -> None:
        self._threads = threads
        self._half = max(1, threads // 2)
        self._now = now
        self._lock = threading.Lock()
        self._working: Counter[str] = Counter()
        self._pushes: dict[str, list[float]] = {}
        self._failing: set[str] = set()
        self._slow: set[str] = set()
        self._asked: set[str] = set()
        self._turned_away: dict[str, None] = {}
        self._promised: dict[str, float] = {}

    def enter(self, subscription_id: str) -> bool:
        """Begin to work for a subscription, if its share allows one more thread.

        If not, those who work for it look once more before they leave; so what was called for is not missed. Where
        nobody does, its turn comes, see ``next_turn``.
        """
        with self._lock:
            if not self._allows(subscription_id):
                if self._working[subscription_id]:
                    self._asked.add(subscription_id)
                else:
                    self._turned_away[subscription_id] = None
                return False
            self._turned_away.pop(subscription_id, None)
            self._promised.pop(subscription_id, None)
            self._working[subscription_id] += 1
            return True

    def stays(self, subscription_id: str) -> bool:
        """Leave, as nothing was found to do; but return True, and stay, where somebody was turned away meanwhile."""
        with self._lock:
            if subscription_id in self._asked:
                self._asked.discard(subscription_id)
                return True
            self._end(subscription_id)
            return False

    def leave(self, subscription_id: str) -> None:
        """Leave, whatever may be left to do."""
        with self._lock:
            self._end(subscription_id)

    def next_turn(self) -> str | None:
        """Return who has been waiting longest of those that were turned away and may begin now; it is to be called.

        A thread is kept for it for a while: else who has just left, and has much to do, would always be there first.
        """
        with self._lock:
            turn = next((each for each in self._turned_away if self._allows(each)), None)
            if turn is not None:
                del self._turned_away[turn]
                self._promised[turn] = self._now() + PROMISE_SECONDS
            return turn

    @contextmanager
    def pushing(self, subscription_id: str) -> Iterator[None]:
        """Watch how long a push takes, while it does and for what it says of the next."""
        with self._lock:
            began = self._now()
            self._pushes.setdefault(subscription_id, []).append(began)
        try:
            yield
        finally:
            with self._lock:
                self._pushes[subscription_id].remove(began)
                if not self._pushes[subscription_id]:
                    del self._pushes[subscription_id]
                is_slow = self._now() - began > SLOW_SECONDS
                (self._slow.add if is_slow else self._slow.discard)(subscription_id)

    def note(self, subscription_id: str, *, is_taken: bool) -> bool:
        """Remember what came of a push. Return whether there are now more threads than the share allows."""
        with self._lock:
            (self._failing.discard if is_taken else self._failing.add)(subscription_id)
            return not is_taken and self._working[subscription_id] > 1

    def _allows(self, subscription_id: str) -> bool:
        working = self._working[subscription_id]
        free = self._threads - self._working.total()
        if self._drags(subscription_id):
            dragging = sum(count for each, count in self._working.items() if self._drags(each))
            kept = sum(each != subscription_id and self._now() < until for each, until in self._promised.items())
            free = min(free, self._half - dragging - kept)
        most = 1 if subscription_id in self._failing else self._half
        return working < min(most, free)

    def _drags(self, subscription_id: str) -> bool:
        if subscription_id in self._failing or subscription_id in self._slow:
            return True
        pushes = self._pushes.get(subscription_id)
        return pushes is not None and self._now() - pushes[0] > SLOW_SECONDS

    def _end(self, subscription_id: str) -> None:
        self._working[subscription_id] -= 1
        if not self._working[subscription_id]:
            del self._working[subscription_id]
            self._asked.discard(subscription_id)
