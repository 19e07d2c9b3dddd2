import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.delivery.backoff import GIVE_UP_SECONDS, JITTER_RATIO, MAX_RETRY_AFTER_SECONDS, RETRY_SECONDS, retry_delay

chance = st.floats(0, 1)
asked = st.none() | st.floats(0, 10**9)


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 5), (2, 60), (3, 300), (4, 1800), (5, 7200), (6, 21600), (99, 21600)]
)
def test_the_schedule_is_as_promised(attempts: int, seconds: float) -> None:
    """After so many attempts, so long."""
    assert retry_delay(attempts, retry_after=None, jitter=0) == seconds


@given(st.integers(1, 50), asked, chance)
def test_it_is_never_sooner_and_never_much_later(attempts: int, wish: float | None, jitter: float) -> None:
    """Chance and the consumer's wish only add, within bounds."""
    least = RETRY_SECONDS[min(attempts, len(RETRY_SECONDS)) - 1]
    seconds = retry_delay(attempts, retry_after=wish, jitter=jitter)

    assert (
        max(least, min(wish or 0, MAX_RETRY_AFTER_SECONDS)) <= seconds <= MAX_RETRY_AFTER_SECONDS * (1 + JITTER_RATIO)
    )


@given(st.integers(1, 50), chance)
def test_a_wish_is_obeyed(attempts: int, jitter: float) -> None:
    """An hour asked for is an hour at least."""
    assert retry_delay(attempts, retry_after=3600, jitter=jitter) >= 3600


def test_it_ends_after_three_days() -> None:
    """As the contract says."""
    assert GIVE_UP_SECONDS == 3 * 24 * 3600
