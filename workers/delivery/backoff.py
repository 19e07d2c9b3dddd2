"""Retry schedule of pushes: exponential backoff intervals, jitter, ``Retry-After``, and when to give up (dead letter).

Pure functions. Source of the intervals: the contract with consumers, see ``docs/events.md``.
"""

RETRY_SECONDS = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0)
"""The delay after the first failed attempt, the second, and so on. The last delay repeats."""

GIVE_UP_SECONDS = 3 * 86_400.0
"""An attempt that begins this long after the first one is the last: if it fails, the delivery is dead."""

LOCAL_FAILURE_RETRY_SECONDS = 60.0
"""The delay after a failure on our side, for example a secret that cannot be decrypted; it counts as no attempt."""

JITTER_RATIO = 0.2
"""The largest random extension of a delay, as a share of it: it spreads the retries of pushes that failed together."""

MAX_RETRY_AFTER_SECONDS = RETRY_SECONDS[-1]
"""A longer ``Retry-After`` is shortened to this."""


def retry_delay(attempts: int, *, retry_after: float | None, jitter: float) -> float:
    """Return the seconds until the next attempt.

    Args:
        attempts: How many attempts have failed so far.
        retry_after: The seconds from the consumer's ``Retry-After``; used if longer than the schedule's delay.
        jitter: A random number from 0 to 1.
    """
    scheduled = RETRY_SECONDS[min(max(attempts, 1), len(RETRY_SECONDS)) - 1]
    requested = min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS)
    return max(scheduled, requested) * (1 + JITTER_RATIO * jitter)
