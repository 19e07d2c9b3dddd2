from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from runtime.database import Database
from tests.support import query_plans
from workers.refetch.decision import MirrorState, StatusHint
from workers.refetch.lease import ReadLease
from workers.refetch.recent_webhooks import RecentWebhooks, WebhookGroup, get_recent_webhooks

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ACTIVE, BROKEN, OTHER = (
    StatusHint("ACTIVE", ""),
    StatusHint("RECONNECT_REQUIRED", "OTHER"),
    StatusHint("DEGRADED", None),
)
NO_STATUS = None

times = st.integers(0, 900).map(lambda seconds: NOW - timedelta(seconds=seconds))
groups = st.builds(WebhookGroup, st.sampled_from([ACTIVE, BROKEN, OTHER, NO_STATUS]), times, st.booleans())
states = st.sampled_from(["ACTIVE", "RECONNECT_REQUIRED", "DEGRADED"]).map(
    lambda status: MirrorState("a", status, "OTHER" if status == "RECONNECT_REQUIRED" else None, "a", ())
)
SHOWN = MirrorState("a", "ACTIVE", None, "a", ())


def group(hint: StatusHint | None, *, is_fresh: bool = True) -> WebhookGroup:
    return WebhookGroup(hint, NOW, is_fresh)


@pytest.mark.parametrize(
    ("groups", "is_needed"),
    [
        ([], False),
        ([group(ACTIVE)], False),
        ([group(BROKEN)], True),
        ([group(NO_STATUS)], True),
        ([group(ACTIVE), group(BROKEN)], True),
        ([group(NO_STATUS, is_fresh=False), group(ACTIVE)], False),
    ],
)
def test_which_reads_need_a_confirming_one(groups: list[WebhookGroup], *, is_needed: bool) -> None:
    """All soon after a webhook, unless the webhooks of that time name one status and the read shows it."""
    assert RecentWebhooks(None, tuple(groups)).needs_confirming_read(SHOWN) == is_needed


@given(st.lists(groups, max_size=5), st.none() | states, states)
def test_which_changes_were_undone(said: list[WebhookGroup], before: MirrorState | None, after: MirrorState) -> None:
    """A change was undone if a webhook that is not fresh names a status that neither the mirror nor the read shows."""
    undone_at = RecentWebhooks(None, tuple(said)).undone_at(before, after)

    shown = {before.status, after.status} if before is not None else {"ACTIVE", "RECONNECT_REQUIRED", "DEGRADED"}
    received = [one.received_at for one in said if not one.is_fresh and one.hint and one.hint.status not in shown]
    assert undone_at == max(received, default=None)


LEASE = ReadLease(
    connection_id="c1", token="t", generation=1, attempts=1, is_dead=False, is_probe=False, trigger="webhook", depth=0,
    error=None, webhooks=(),
)  # fmt: skip


def test_a_connections_webhooks_are_found_by_its_index(database: Database) -> None:
    """No statement goes by time alone: all connections together have far more recent webhooks than one."""
    query_plans.fill_tables(database)
    if database.is_postgres:
        with database.write() as session:
            # As they arrive over months: few are as new as is asked for, so the index on the time looks good.
            session.connection().execute(
                text("UPDATE webhook SET received_at = now() - (40000 - id) * interval '190 s'")
            )
            session.connection().execute(text("ANALYZE"))

    with query_plans.record_statements(database) as sent, database.read() as session:
        get_recent_webhooks(database, session, LEASE, read_seconds=0, previous_read_at=NOW)
    plans = query_plans.explain_all(database, [each for each in sent if each[0].startswith("SELECT")])

    assert len(plans) == 2
    assert [plan for plan in plans if "connection_id" not in plan or "ix_webhook_received_at" in plan] == []
