import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.delivery.backoff import GIVE_UP_SECONDS, JITTER_RATIO, MAX_RETRY_AFTER_SECONDS, RETRY_SECONDS, retry_delay

jitters = st.floats(0, 1)
retry_afters = st.none() | st.floats(0, 10**9)


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 5), (2, 60), (3, 300), (4, 1800), (5, 7200), (6, 21600), (99, 21600)]
)
def test_the_schedule_is_as_promised(attempts: int, seconds: float) -> None:
    """The delay after a number of attempts."""
    assert retry_delay(attempts, retry_after=None, jitter=0) == seconds


@given(st.integers(1, 50), retry_afters, jitters)
def test_jitter_and_retry_after_only_add_within_bounds(attempts: int, requested: float | None, jitter: float) -> None:
    """A delay is never shorter than the schedule, and never longer than the maximum."""
    least = RETRY_SECONDS[min(attempts, len(RETRY_SECONDS)) - 1]
    seconds = retry_delay(attempts, retry_after=requested, jitter=jitter)

    shortest = max(least, min(requested or 0, MAX_RETRY_AFTER_SECONDS))
    assert shortest <= seconds <= MAX_RETRY_AFTER_SECONDS * (1 + JITTER_RATIO)


@given(st.integers(1, 50), jitters)
def test_retry_after_is_respected(attempts: int, jitter: float) -> None:
    """A requested hour is an hour at least."""
    assert retry_delay(attempts, retry_after=3600, jitter=jitter) >= 3600


def test_it_ends_after_three_days() -> None:
    """As the contract says."""
    assert GIVE_UP_SECONDS == 3 * 24 * 3600
