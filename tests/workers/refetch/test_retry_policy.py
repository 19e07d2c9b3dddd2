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


def verdict(
    failure: Failure, attempts: int = 1, failures: int = 1, jitter: float = 0, *, is_fresh: bool = True
) -> RetryDecision:
    return decide_retry(failure, attempts=attempts, failures=failures, is_fresh=is_fresh, jitter=jitter)


@given(failure=of_one | of_meld, attempts=attempts, failures=failures, jitter=jitters, is_fresh=st.booleans())
def test_delays_have_bounds(*, failure: Failure, attempts: int, failures: int, jitter: float, is_fresh: bool) -> None:
    """Nothing comes again at once, or later than an hour and a little, whatever was counted before."""
    judged = verdict(failure, attempts, failures, jitter, is_fresh=is_fresh)

    assert judged.delay is None or FIRST_BACKOFF_SECONDS / 2 <= judged.delay <= 3600 + 1
    assert judged.pause is None or FIRST_BACKOFF_SECONDS / 2 <= judged.pause <= 3600


@given(failure=of_one, attempts=st.integers(0, MAX_ATTEMPTS - 1), failures=few, jitter=jitters)
def test_a_fresh_connection_is_back_within_thirty_seconds(
    *, failure: Failure, attempts: int, failures: int, jitter: float
) -> None:
    """While somebody may be looking, the back-off is capped; only Meld's own wish counts for more."""
    judged = verdict(failure, attempts, failures, jitter)

    asked = failure.retry_after or 0 if isinstance(failure, Unavailable) else 0
    assert judged.delay is not None
    assert judged.delay <= max(MAX_FRESH_BACKOFF_SECONDS, asked)
    assert MAX_FRESH_BACKOFF_SECONDS == 30


@given(failure=of_one, attempts=st.integers(1, MAX_ATTEMPTS - 1), failures=few, jitter=jitters, is_fresh=st.booleans())
def test_what_speaks_of_one_costs_it_an_attempt_and_nobody_else_anything(
    *, failure: Failure, attempts: int, failures: int, jitter: float, is_fresh: bool
) -> None:
    """A failure of one connection pauses nobody."""
    judged = verdict(failure, attempts, failures, jitter, is_fresh=is_fresh)

    assert (judged.costs_attempt, judged.is_dead, judged.pause) == (True, False, None)


@given(failure=of_one, attempts=st.integers(MAX_ATTEMPTS, 1000), failures=few, jitter=jitters, is_fresh=st.booleans())
def test_there_are_twelve_attempts(
    *, failure: Failure, attempts: int, failures: int, jitter: float, is_fresh: bool
) -> None:
    """The twelfth failure in a row is the last that counts; what may heal by itself is tried on all the same."""
    judged = verdict(failure, attempts, failures, jitter, is_fresh=is_fresh)

    assert MAX_ATTEMPTS == 12
    asked = failure.retry_after or 0 if isinstance(failure, Unavailable) else 0
    assert judged.is_dead
    assert (judged.delay is None) == isinstance(failure, Absent)
    assert judged.delay is None or MAX_FRESH_BACKOFF_SECONDS / 2 <= judged.delay <= max(MAX_BACKOFF_SECONDS, asked)


@given(failure=of_meld, attempts=attempts, failures=failures, jitter=jitters, is_fresh=st.booleans())
def test_what_speaks_of_meld_pauses_all_and_costs_nobody_anything(
    *, failure: Failure, attempts: int, failures: int, jitter: float, is_fresh: bool
) -> None:
    """Neither 429 nor refused credentials ever kill a connection, however long they last."""
    judged = verdict(failure, attempts, failures, jitter, is_fresh=is_fresh)

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
def test_an_outage_never_kills(
    *, attempts: int, failures: int, asked: float | None, jitter: float, is_fresh: bool
) -> None:
    """When one connection after another is unavailable, all reads rest and nobody runs out of attempts."""
    judged = verdict(Unavailable("Meld answered 503", asked), attempts, failures, jitter, is_fresh=is_fresh)

    assert (judged.costs_attempt, judged.is_dead, judged.reason) == (False, False, "unavailable")
    assert judged.pause is not None
    assert judged.pause <= max(MAX_PAUSE_SECONDS, asked or 0)


@given(asked=st.floats(FIRST_BACKOFF_SECONDS, 3600), attempts=attempts, failures=failures, jitter=jitters)
def test_a_retry_after_is_obeyed(*, asked: float, attempts: int, failures: int, jitter: float) -> None:
    """Meld's own wish is neither cut short nor stretched by more than the jitter."""
    throttled = verdict(Throttled(asked), attempts, failures, jitter)
    outage = verdict(Unavailable("x", asked), attempts, failures + MIN_OUTAGE_FAILURES, jitter)
    alone = verdict(Unavailable("x", asked), min(attempts, MAX_ATTEMPTS - 1), 1, jitter)

    assert (throttled.pause, outage.pause) == (asked, asked)
    assert alone.delay is not None
    assert alone.delay >= asked


@given(failures=failures, jitter=jitters)
def test_a_throttled_read_without_a_time_waits_ever_longer(*, failures: int, jitter: float) -> None:
    """Without a ``Retry-After`` the pause doubles with each 429, up to its bound."""
    pauses = [verdict(Throttled(None), 1, number, jitter).pause for number in (failures, failures + 1)]

    assert pauses[0] is not None
    assert pauses[1] is not None
    assert FIRST_BACKOFF_SECONDS <= pauses[0] <= pauses[1] <= MAX_PAUSE_SECONDS


@given(failures=failures, jitter=jitters)
def test_refused_credentials_are_probed_at_least_every_thirty_seconds(*, failures: int, jitter: float) -> None:
    """Whoever mends the credentials sees reads within half a minute."""
    judged = verdict(Refused("Meld answered 401"), 1, failures, jitter)

    assert judged.pause is not None
    assert judged.pause <= MAX_REFUSED_PAUSE_SECONDS < 30
    assert judged.reason == "refused"


@given(attempts=attempts, failures=failures, jitter=jitters, is_fresh=st.booleans())
def test_a_refusal_of_one_connection_pauses_nobody(
    *, attempts: int, failures: int, jitter: float, is_fresh: bool
) -> None:
    """Where others are let in, a connection that is refused again speaks of itself: it is tried on, and seen."""
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
    delays = [verdict(failure, number, jitter=1, is_fresh=is_fresh).delay or 0 for number in range(1, MAX_ATTEMPTS)]

    assert all(before <= after for before, after in pairwise(delays))
    assert (delays[0], delays[-1]) == (
        FIRST_BACKOFF_SECONDS,
        MAX_FRESH_BACKOFF_SECONDS if is_fresh else MAX_BACKOFF_SECONDS,
    )


@given(failure=of_one, attempts=st.integers(1, MAX_ATTEMPTS - 1), failures=few, is_fresh=st.booleans())
def test_jitter_spreads_over_half_a_delay(*, failure: Failure, attempts: int, failures: int, is_fresh: bool) -> None:
    """Many that failed together do not come back together."""
    low, high = (verdict(failure, attempts, failures, jitter, is_fresh=is_fresh).delay or 0 for jitter in (0, 1))

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
def test_an_operator_is_told_what_went_wrong(failure: Failure, detail: str) -> None:
    """The detail is the outcome's own."""
    assert verdict(failure).detail == detail


def test_a_404_suggests_the_wrong_environment() -> None:
    """The likeliest reason of a 404 that nobody announced."""
    assert "wrong environment" in verdict(Absent()).detail
