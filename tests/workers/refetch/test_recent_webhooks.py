from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from runtime.database import Database
from tests.support import query_plans
from workers.refetch.decision import Announced, MirrorState
from workers.refetch.lease import ReadLease
from workers.refetch.recent_webhooks import News, Word, news_of, passed_over

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ACTIVE, BROKEN, OTHER = Announced("ACTIVE", ""), Announced("RECONNECT_REQUIRED", "OTHER"), Announced("DEGRADED", None)
SILENT = None

announcements = st.sampled_from([ACTIVE, BROKEN, OTHER, SILENT])
times = st.integers(0, 900).map(lambda seconds: NOW - timedelta(seconds=seconds))
words = st.builds(Word, announcements, times, times, st.booleans())
states = st.sampled_from(["ACTIVE", "RECONNECT_REQUIRED", "DEGRADED"]).map(
    lambda status: MirrorState("a", status, "OTHER" if status == "RECONNECT_REQUIRED" else None, "a", ())
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
def test_what_is_unlike_fits_neither_state(said: list[Word], before: MirrorState | None, after: MirrorState) -> None:
    """Neither the state before the read nor the one after it is what was announced."""
    unlike = News(None, tuple(said)).unlike(before, after)

    if before is None:
        assert unlike == ()
        return
    shown = {before.status, after.status}
    assert unlike == tuple(word for word in said if word.announced and word.announced.status not in shown)


CLAIM = ReadLease(
    connection_id="c1", token="t", generation=1, attempts=1, is_dead=False, is_probe=False, trigger="webhook", depth=0,
    error=None, webhooks=(),
)  # fmt: skip


def test_news_of_one_go_through_nobody_elses(database: Database) -> None:
    """Every statement goes by the connection: of the time that is looked at, others have far more webhooks."""
    query_plans.fill(database)
    if database.is_postgres:
        with database.write() as session:
            # As they come over months: then few are as new as is asked for, and their index looks good.
            session.connection().execute(
                text("UPDATE webhook SET received_at = now() - (40000 - id) * interval '190 s'")
            )
            session.connection().execute(text("ANALYZE"))

    with query_plans.recording(database) as sent, database.read() as session:
        news_of(database, session, CLAIM, took=0)
        passed_over(database, session, "c1", [Word(ACTIVE, NOW, NOW, is_late=True)])
    plans = query_plans.plans_of(database, [each for each in sent if each[0].startswith("SELECT")])

    assert len(plans) == 3
    assert [plan for plan in plans if "connection_id" not in plan or "ix_webhook_received_at" in plan] == []
