"""Share: how many of a process's threads one subscription may hold, so that no consumer takes them all.

A consumer that answers gets half of them. One whose last push failed gets one, and all such together at most half:
however many hang, the other half is there for those that do not.
"""

import threading
from collections import Counter


class Shares:
    """Who is at work for whom, in one process.

    Args:
        threads: How many threads there are.
    """

    def __init__(self, threads: int) -> None:
        self._half = max(1, threads // 2)
        self._lock = threading.Lock()
        self._working: Counter[str] = Counter()
        self._failing: set[str] = set()
        self._asked: set[str] = set()

    def enter(self, subscription_id: str) -> bool:
        """Begin to work for a subscription, if its share allows one more thread.

        If not, those who work for it look once more before they leave; so what was called for is not missed.
        """
        with self._lock:
            if not self._allows(subscription_id):
                self._asked.add(subscription_id)
                return False
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

    def note(self, subscription_id: str, *, is_taken: bool) -> bool:
        """Remember what came of a push. Return whether there are now more threads than the share allows."""
        with self._lock:
            (self._failing.discard if is_taken else self._failing.add)(subscription_id)
            return not is_taken and self._working[subscription_id] > 1

    def _allows(self, subscription_id: str) -> bool:
        working = self._working[subscription_id]
        if subscription_id not in self._failing:
            return working < self._half
        failing = sum(self._working[each] for each in self._failing)
        return working < 1 and failing < self._half

    def _end(self, subscription_id: str) -> None:
        self._working[subscription_id] -= 1
        if not self._working[subscription_id]:
            del self._working[subscription_id]
            self._asked.discard(subscription_id)
