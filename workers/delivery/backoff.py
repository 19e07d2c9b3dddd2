"""Schedule: when a push that was not taken is tried again. Pure."""

RETRY_SECONDS = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0)
"""After the first attempt, the second, and so on; the last of them again and again."""

GIVE_UP_SECONDS = 3 * 86_400.0
"""An attempt so long after the first one is the last."""

OURS_SECONDS = 60.0
"""What fails here, as where a secret cannot be decrypted, is tried again after so long, and counts for nothing."""

JITTER = 0.2
"""Up to so much of a delay is added to it by chance: what failed together does not come back together."""

LONGEST_RETRY_AFTER = RETRY_SECONDS[-1]
"""More than this is not believed of a ``Retry-After``."""


def delay(attempts: int, *, retry_after: float | None, jitter: float) -> float:
    """Return the seconds until the next attempt.

    Args:
        attempts: How many there were.
        retry_after: What the consumer asked for; obeyed where it is longer than the schedule.
        jitter: A number from 0 to 1.
    """
    step = RETRY_SECONDS[min(max(attempts, 1), len(RETRY_SECONDS)) - 1]
    asked = min(retry_after or 0.0, LONGEST_RETRY_AFTER)
    return max(step, asked) * (1 + JITTER * jitter)
