"""What a read without a usable answer leads to: pure. Every outcome has its policy here.

Whose fault it is decides: what speaks of one connection costs that connection an attempt; what speaks of Meld or of
our credentials pauses all reads and costs nobody anything.
"""

from dataclasses import dataclass
from typing import assert_never

from schemas.meld.read_outcome import Absent, Refused, Throttled, Unavailable, Unreadable

MAX_ATTEMPTS = 12
"""Then the job is dead: its webhooks are ``failed``, and the metrics count it."""

FIRST_DELAY = 1.0
"""Seconds; doubled with each attempt."""

FRESH_DELAY = 30.0
"""Longest back-off, in seconds, while the connection's newest webhook is younger than ``FRESH_SECONDS``: somebody may
be looking at a screen."""

FRESH_SECONDS = 3600.0

STALE_DELAY = 900.0
"""Longest back-off otherwise."""

OUTAGE_FAILURES = 5
"""So many failures in a row, of different connections, speak of Meld."""

PAUSE_SECONDS = 30.0
"""The longest pause that Meld did not ask for itself."""

REFUSED_SECONDS = 20.0
"""The longest pause for refused credentials: the contract promises a probe every 30 s, and calling one takes some."""

Failure = Absent | Throttled | Unavailable | Refused | Unreadable


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What is to be done after a read without a usable answer.

    Attributes:
        detail: What went wrong, for an operator.
        delay: Seconds until the next attempt; None for never, unless it is raised anew.
        costs_attempt: Whether the attempt counts against the connection.
        is_dead: Whether the connection has no attempt left.
        pause: Seconds that all reads rest; None for none.
        reason: Why they rest: the outcome's name.
    """

    detail: str
    delay: float | None
    costs_attempt: bool = True
    is_dead: bool = False
    pause: float | None = None
    reason: str = ""


def judge(  # noqa: PLR0911 - one for each case
    failure: Failure, *, attempts: int, failures: int, is_fresh: bool, jitter: float, is_own: bool = False
) -> RetryDecision:
    """Return the verdict on a failed read.

    Args:
        failure: What the read came to.
        attempts: The connection's attempts, this one included.
        failures: Failures in a row that may speak of Meld as a whole, this one included.
        is_fresh: Whether the connection's newest webhook is younger than ``FRESH_SECONDS``.
        jitter: A random number from 0 to 1, so that many do not come back at one moment.
        is_own: Whether a refusal speaks of this connection alone: it was refused before, others were not since.
    """
    match failure:
        case Throttled(retry_after):
            pause = retry_after if retry_after is not None else _doubled(failures, PAUSE_SECONDS)
            return _pause("throttled", "Meld answered 429", max(pause, FIRST_DELAY), jitter)
        case Refused(detail) if is_own:
            return _back_off(detail, attempts, is_fresh=is_fresh, jitter=jitter, may_heal=True)
        case Refused(detail):
            return _pause("refused", detail, _doubled(failures + 2, REFUSED_SECONDS), jitter)
        case Unavailable(detail, retry_after) if failures >= OUTAGE_FAILURES:
            pause = retry_after or _doubled(failures - OUTAGE_FAILURES + 1, PAUSE_SECONDS)
            return _pause("unavailable", detail, max(pause, FIRST_DELAY), jitter)
        case Unavailable(detail, retry_after):
            return _back_off(detail, attempts, is_fresh=is_fresh, jitter=jitter, may_heal=True, least=retry_after or 0)
        case Unreadable(detail, evidence):
            text = f"{detail}: {evidence}" if evidence else detail
            return _back_off(text, attempts, is_fresh=is_fresh, jitter=jitter, may_heal=True)
        case Absent():
            text = "Meld answered 404, and no webhook said that the connection was deleted. The wrong environment?"
            return _back_off(text, attempts, is_fresh=is_fresh, jitter=jitter, may_heal=False)
        case _:
            assert_never(failure)


def _doubled(times: int, longest: float) -> float:
    return min(FIRST_DELAY * 2.0 ** min(max(times - 1, 0), 30), longest)


def _pause(reason: str, detail: str, seconds: float, jitter: float) -> RetryDecision:
    # Those who waited come back one after the other, not all in the moment that the pause ends.
    return RetryDecision(detail, seconds + jitter, costs_attempt=False, pause=seconds, reason=reason)


def _back_off(
    detail: str, attempts: int, *, is_fresh: bool, jitter: float, may_heal: bool, least: float = 0
) -> RetryDecision:
    longest = _doubled(attempts, FRESH_DELAY if is_fresh else STALE_DELAY)
    delay = max(longest * (0.5 + 0.5 * jitter), least)
    if attempts >= MAX_ATTEMPTS:
        # Dead is for people to see. Where Meld may be at fault, it is tried again all the same: nobody else may ever
        # speak of this connection, and an outage must not leave it behind.
        return RetryDecision(detail, delay if may_heal else None, is_dead=True)
    return RetryDecision(detail, delay)
