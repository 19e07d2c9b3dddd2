from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.meld.read_outcome import Absent, Refused, Throttled, Unavailable, Unreadable
from workers.refetch.retry_policy import (
    FIRST_BACKOFF_SECONDS,
    MAX_ATTEMPTS,
    MAX_BACKOFF_SECONDS,
    MAX_FRESH_BACKOFF_SECONDS,
    MAX_PAUSE_SECONDS,
    MAX_REFUSED_PAUSE_SECONDS,
    MIN_OUTAGE_FAILURES,
    Failure,
    RetryDecision,
    decide_retry,
)

seconds = st.none() | st.floats(0, 3600)
of_one = st.one_of(
    st.builds(Absent),
    st.builds(Unavailable, st.text(max_size=5), seconds),
    st.builds(Unreadable, st.text(max_size=5), st.text(max_size=5)),
)
of_meld = st.one_of(st.builds(Throttled, seconds), st.builds(Refused, st.text(max_size=5)))
attempts = st.integers(0, 1_000)
failures = st.integers(0, 1_000_000)
few = st.integers(0, MIN_OUTAGE_FAILURES - 1)
jitters = st.floats(0, 1)
HOPELESS = [Absent(), Unreadable("the response is not JSON")]


def retry_of(
    failure: Failure, attempts: int = 1, failures: int = 1, jitter: float = 0, *, is_fresh: bool = True
) -> RetryDecision:
    return decide_retry(failure, attempts=attempts, failures=failures, is_fresh=is_fresh, jitter=jitter)


@given(failure=of_one | of_meld, attempts=attempts, failures=failures, jitter=jitters, is_fresh=st.booleans())
def test_delays_have_bounds(*, failure: Failure, attempts: int, failures: int, jitter: float, is_fresh: bool) -> None:
    """No retry happens at once, or later than an hour and a little, whatever was counted before."""
    judged = retry_of(failure, attempts, failures, jitter, is_fresh=is_fresh)

    assert judged.delay is None or FIRST_BACKOFF_SECONDS / 2 <= judged.delay <= 3600 + 1
    assert judged.pause is None or FIRST_BACKOFF_SECONDS / 2 <= judged.pause <= 3600


@given(failure=of_one, attempts=st.integers(0, MAX_ATTEMPTS - 1), failures=few, jitter=jitters)
def test_a_fresh_connection_is_retried_within_thirty_seconds(
    *, failure: Failure, attempts: int, failures: int, jitter: float
) -> None:
    """While a user may be waiting the backoff is capped; only a Retry-After may exceed the cap."""
    judged = retry_of(failure, attempts, failures, jitter)

    asked = failure.retry_after or 0 if isinstance(failure, Unavailable) else 0
    assert judged.delay is not None
    assert judged.delay <= max(MAX_FRESH_BACKOFF_SECONDS, asked)
    assert MAX_FRESH_BACKOFF_SECONDS == 30


@given(failure=of_one, attempts=st.integers(1, MAX_ATTEMPTS - 1), failures=few, jitter=jitters, is_fresh=st.booleans())
def test_a_failure_of_one_connection_costs_it_an_attempt(
    *, failure: Failure, attempts: int, failures: int, jitter: float, is_fresh: bool
) -> None:
    """It does not open the circuit breaker."""
    judged = retry_of(failure, attempts, failures, jitter, is_fresh=is_fresh)

    assert (judged.costs_attempt, judged.is_dead, judged.pause) == (True, False, None)


@given(failure=of_one, attempts=st.integers(MAX_ATTEMPTS, 1000), failures=few, jitter=jitters, is_fresh=st.booleans())
def test_there_are_twelve_attempts(
    *, failure: Failure, attempts: int, failures: int, jitter: float, is_fresh: bool
) -> None:
    """The twelfth failure in a row gives the connection up; failures that may heal are retried nevertheless."""
    judged = retry_of(failure, attempts, failures, jitter, is_fresh=is_fresh)

    assert MAX_ATTEMPTS == 12
    asked = failure.retry_after or 0 if isinstance(failure, Unavailable) else 0
    assert judged.is_dead
    assert (judged.delay is None) == isinstance(failure, Absent)
    assert judged.delay is None or MAX_FRESH_BACKOFF_SECONDS / 2 <= judged.delay <= max(MAX_BACKOFF_SECONDS, asked)


@given(failure=of_meld, attempts=attempts, failures=failures, jitter=jitters, is_fresh=st.booleans())
def test_a_failure_of_meld_opens_the_circuit_breaker(
    *, failure: Failure, attempts: int, failures: int, jitter: float, is_fresh: bool
) -> None:
    """Neither 429 nor refused credentials ever cost an attempt, however long they last."""
    judged = retry_of(failure, attempts, failures, jitter, is_fresh=is_fresh)

    assert (judged.costs_attempt, judged.is_dead) == (False, False)
    assert judged.pause is not None
    assert judged.delay is not None
    assert judged.pause <= judged.delay <= judged.pause + 1


@given(
    attempts=attempts,
    failures=st.integers(MIN_OUTAGE_FAILURES, 1_000_000),
    asked=seconds,
    jitter=jitters,
    is_fresh=st.booleans(),
)
def test_an_outage_never_gives_up(
    *, attempts: int, failures: int, asked: float | None, jitter: float, is_fresh: bool
) -> None:
    """If one connection after another is unavailable, the circuit breaker opens and nobody runs out of attempts."""
    judged = retry_of(Unavailable("Meld answered 503", asked), attempts, failures, jitter, is_fresh=is_fresh)

    assert (judged.costs_attempt, judged.is_dead, judged.reason) == (False, False, "unavailable")
    assert judged.pause is not None
    assert judged.pause <= max(MAX_PAUSE_SECONDS, asked or 0)


@given(asked=st.floats(FIRST_BACKOFF_SECONDS, 3600), attempts=attempts, failures=failures, jitter=jitters)
def test_a_retry_after_is_respected(*, asked: float, attempts: int, failures: int, jitter: float) -> None:
    """The delay is at least the Retry-After, and exceeds it by the jitter at most."""
    throttled = retry_of(Throttled(asked), attempts, failures, jitter)
    outage = retry_of(Unavailable("x", asked), attempts, failures + MIN_OUTAGE_FAILURES, jitter)
    alone = retry_of(Unavailable("x", asked), min(attempts, MAX_ATTEMPTS - 1), 1, jitter)

    assert (throttled.pause, outage.pause) == (asked, asked)
    assert alone.delay is not None
    assert alone.delay >= asked


@given(failures=failures, jitter=jitters)
def test_a_429_without_a_retry_after_doubles_the_delay(*, failures: int, jitter: float) -> None:
    """The time that the circuit breaker stays open doubles with each 429, up to its bound."""
    pauses = [retry_of(Throttled(None), 1, number, jitter).pause for number in (failures, failures + 1)]

    assert pauses[0] is not None
    assert pauses[1] is not None
    assert FIRST_BACKOFF_SECONDS <= pauses[0] <= pauses[1] <= MAX_PAUSE_SECONDS


@given(failures=failures, jitter=jitters)
def test_refused_credentials_are_probed_at_least_every_thirty_seconds(*, failures: int, jitter: float) -> None:
    """An operator who corrects the credentials sees reads within half a minute."""
    judged = retry_of(Refused("Meld answered 401"), 1, failures, jitter)

    assert judged.pause is not None
    assert judged.pause <= MAX_REFUSED_PAUSE_SECONDS < 30
    assert judged.reason == "refused"


@given(attempts=attempts, failures=failures, jitter=jitters, is_fresh=st.booleans())
def test_a_refusal_of_one_connection_does_not_open_the_circuit_breaker(
    *, attempts: int, failures: int, jitter: float, is_fresh: bool
) -> None:
    """If others succeed, a connection that is refused again has a failure of its own, and is retried."""
    judged = decide_retry(
        Refused("Meld answered 403"),
        attempts=attempts,
        failures=failures,
        is_fresh=is_fresh,
        jitter=jitter,
        is_own=True,
    )

    assert (judged.pause, judged.costs_attempt, judged.is_dead) == (None, True, attempts >= MAX_ATTEMPTS)
    assert judged.delay is not None
    assert judged.delay <= (MAX_FRESH_BACKOFF_SECONDS if is_fresh else MAX_BACKOFF_SECONDS)


@pytest.mark.parametrize("is_fresh", [True, False])
@pytest.mark.parametrize("failure", [*HOPELESS, Unavailable("x")], ids=repr)
def test_delays_grow(*, failure: Failure, is_fresh: bool) -> None:
    """Each attempt waits at least as long as the one before, from a second to the bound."""
    delays = [retry_of(failure, number, jitter=1, is_fresh=is_fresh).delay or 0 for number in range(1, MAX_ATTEMPTS)]

    assert all(before <= after for before, after in pairwise(delays))
    assert (delays[0], delays[-1]) == (
        FIRST_BACKOFF_SECONDS,
        MAX_FRESH_BACKOFF_SECONDS if is_fresh else MAX_BACKOFF_SECONDS,
    )


@given(failure=of_one, attempts=st.integers(1, MAX_ATTEMPTS - 1), failures=few, is_fresh=st.booleans())
def test_jitter_spreads_over_half_a_delay(*, failure: Failure, attempts: int, failures: int, is_fresh: bool) -> None:
    """Reads that failed together are not retried together."""
    low, high = (retry_of(failure, attempts, failures, jitter, is_fresh=is_fresh).delay or 0 for jitter in (0, 1))

    asked = failure.retry_after or 0 if isinstance(failure, Unavailable) else 0
    assert low == pytest.approx(max(high / 2, asked)) or high == asked


@pytest.mark.parametrize(
    ("failure", "detail"),
    [
        (Unavailable("Meld answered 503"), "Meld answered 503"),
        (Refused("Meld answered 401"), "Meld answered 401"),
        (Throttled(3), "Meld answered 429"),
        (Unreadable("the response is not JSON"), "the response is not JSON"),
        (Unreadable("the response is not JSON", "<html>"), "the response is not JSON: <html>"),
    ],
)
def test_the_detail_names_the_failure(failure: Failure, detail: str) -> None:
    """The detail is the text of the outcome."""
    assert retry_of(failure).detail == detail


def test_a_404_suggests_the_wrong_environment() -> None:
    """The most likely reason of a 404 without a DELETED webhook."""
    assert "wrong environment" in retry_of(Absent()).detail
