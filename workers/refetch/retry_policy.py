"""Retry policy of failed reads: backoff with jitter, Retry-After, circuit breaker, giving up (dead). Pure.

A failure of one connection costs that connection an attempt. A failure of Meld, or of our credentials, opens the
circuit breaker for all reads and costs no connection an attempt.
"""

from dataclasses import dataclass
from typing import assert_never

from schemas.meld.read_outcome import Absent, Refused, Throttled, Unavailable, Unreadable

MAX_ATTEMPTS = 12
"""After this many attempts the connection is given up (dead): its webhooks are ``failed``, and a metric counts it."""

FIRST_BACKOFF_SECONDS = 1.0
"""Seconds; doubled with each attempt."""

MAX_FRESH_BACKOFF_SECONDS = 30.0
"""Longest backoff while the connection's newest webhook is younger than ``FRESH_SECONDS``: a user may be waiting."""

FRESH_SECONDS = 3600.0

MAX_BACKOFF_SECONDS = 900.0
"""Longest backoff otherwise."""

MIN_OUTAGE_FAILURES = 5
"""This many failures in a row, of different connections, count as an outage of Meld."""

MAX_PAUSE_SECONDS = 30.0
"""Longest time that the circuit breaker stays open without a ``Retry-After``."""

MAX_REFUSED_PAUSE_SECONDS = 20.0
"""Longest time that it stays open for refused credentials: at most 30 s may pass until a probe, delays included."""

Failure = Absent | Throttled | Unavailable | Refused | Unreadable


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What to do after a failed read.

    Attributes:
        detail: What went wrong, for an operator.
        delay: Seconds until the next attempt; None for none until a new request.
        costs_attempt: Whether the attempt counts against the connection.
        is_dead: Whether the connection has no attempt left.
        pause: Seconds for which the circuit breaker opens; None if it does not.
        reason: Why it opens: the name of the outcome.
    """

    detail: str
    delay: float | None
    costs_attempt: bool = True
    is_dead: bool = False
    pause: float | None = None
    reason: str = ""


def is_own_refusal(failure: Failure, *, is_circuit_open: bool, previous_error: str | None) -> bool:
    """Return whether Meld refuses this connection alone (401 or 403), and not our credentials.

    The previous refusal of the connection opened the circuit breaker. Only a successful read of another connection can
    have closed it since, so the credentials are good.

    Args:
        failure: The outcome of the read.
        is_circuit_open: Whether the circuit breaker is open or half-open.
        previous_error: The detail of the connection's previous failure, if that is the last thing known of it.
    """
    return isinstance(failure, Refused) and not is_circuit_open and previous_error == failure.detail


def decide_retry(  # noqa: PLR0911 - one for each case
    failure: Failure, *, attempts: int, failures: int, is_fresh: bool, jitter: float, is_own: bool = False
) -> RetryDecision:
    """Decide what to do after a failed read.

    Args:
        failure: The outcome of the read.
        attempts: The attempts of the connection, including this one.
        failures: The failures in a row that may be an outage of Meld, including this one.
        is_fresh: Whether the connection's newest webhook is younger than ``FRESH_SECONDS``.
        jitter: A random number from 0 to 1, so that retries do not happen all at once.
        is_own: Whether a refusal concerns this connection alone: it was refused before, and others succeeded since.
    """
    match failure:
        case Throttled(retry_after):
            pause = retry_after if retry_after is not None else _doubled(failures, MAX_PAUSE_SECONDS)
            return _pause("throttled", "Meld answered 429", max(pause, FIRST_BACKOFF_SECONDS), jitter)
        case Refused(detail) if is_own:
            return _back_off(detail, attempts, is_fresh=is_fresh, jitter=jitter, may_heal=True)
        case Refused(detail):
            return _pause("refused", detail, _doubled(failures + 2, MAX_REFUSED_PAUSE_SECONDS), jitter)
        case Unavailable(detail, retry_after) if failures >= MIN_OUTAGE_FAILURES:
            pause = retry_after or _doubled(failures - MIN_OUTAGE_FAILURES + 1, MAX_PAUSE_SECONDS)
            return _pause("unavailable", detail, max(pause, FIRST_BACKOFF_SECONDS), jitter)
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
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(max(times - 1, 0), 30), longest)


def _pause(reason: str, detail: str, seconds: float, jitter: float) -> RetryDecision:
    # With jitter, so that the reads do not all begin at the moment when the circuit breaker closes.
    return RetryDecision(detail, seconds + jitter, costs_attempt=False, pause=seconds, reason=reason)


def _back_off(
    detail: str, attempts: int, *, is_fresh: bool, jitter: float, may_heal: bool, least: float = 0
) -> RetryDecision:
    longest = _doubled(attempts, MAX_FRESH_BACKOFF_SECONDS if is_fresh else MAX_BACKOFF_SECONDS)
    delay = max(longest * (0.5 + 0.5 * jitter), least)
    if attempts >= MAX_ATTEMPTS:
        # Dead reads are for an operator to see. If Meld may be at fault, the read is retried nevertheless: there may
        # never be another webhook for this connection, and an outage must not leave it behind.
        return RetryDecision(detail, delay if may_heal else None, is_dead=True)
    return RetryDecision(detail, delay)
