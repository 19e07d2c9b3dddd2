from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.decide import Announced, State
from workers.news import News, Word

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ACTIVE, BROKEN, OTHER = Announced("ACTIVE", ""), Announced("RECONNECT_REQUIRED", "OTHER"), Announced("DEGRADED", None)
SILENT = None

announcements = st.sampled_from([ACTIVE, BROKEN, OTHER, SILENT])
times = st.integers(0, 900).map(lambda seconds: NOW - timedelta(seconds=seconds))
words = st.builds(Word, announcements, times, times, st.booleans())
states = st.sampled_from(["ACTIVE", "RECONNECT_REQUIRED", "DEGRADED"]).map(
    lambda status: State("a", status, "OTHER" if status == "RECONNECT_REQUIRED" else None, "a", ())
)


def late(*announced: Announced | None) -> News:
    return News(None, tuple(Word(each, NOW, NOW, is_late=True) for each in announced))


@pytest.mark.parametrize(
    ("news", "is_early"),
    [
        (late(), False),
        (late(ACTIVE), False),
        (late(SILENT), True),
        (late(ACTIVE, BROKEN), True),
        (News(ACTIVE, (Word(SILENT, NOW, NOW, is_late=False), Word(ACTIVE, NOW, NOW, is_late=True))), False),
    ],
)
def test_what_a_read_may_have_missed(news: News, *, is_early: bool) -> None:
    """A status that is named can be held against it; none cannot, nor can the last of several."""
    assert news.is_early == is_early


@given(st.lists(words, max_size=5), st.none() | states, states)
def test_what_is_unlike_fits_neither_state(said: list[Word], before: State | None, after: State) -> None:
    """Neither the state before the read nor the one after it is what was announced."""
    unlike = News(None, tuple(said)).unlike(before, after)

    if before is None:
        assert unlike == ()
        return
    shown = {before.status, after.status}
    assert unlike == tuple(word for word in said if word.announced and word.announced.status not in shown)
