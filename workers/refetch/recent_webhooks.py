"""Recent webhooks of a connection: the newest status hint, and whether a read may have been too early for one of them.

Meld's API may lag behind Meld's webhooks, for ``MAX_API_LAG_SECONDS`` at most. A webhook is *fresh* for a read that
begins within that time: the answer may be older than the cause of the webhook.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Executable, bindparam, func, or_, select
from sqlmodel import Session, col
from sqlmodel.sql.sqltypes import UTCDateTime

from runtime.database import Database
from schemas.tables import WebhookRow
from workers.refetch.decision import MirrorState, StatusHint
from workers.refetch.lease import ReadLease
from workers.refetch.recheck_delays import HINT_SECONDS, MAX_API_LAG_SECONDS

MAX_WEBHOOKS = 500
"""How many of the connection's newest webhooks are searched: many more than it receives between two reads."""


@dataclass(frozen=True, slots=True)
class WebhookGroup:
    """The webhooks that name the same status, among those that were fresh for every earlier read.

    Attributes:
        hint: The status and reason that they name; None for webhooks that name none.
        received_at: When the last of them was received.
        is_fresh: Whether the last of them is fresh for the read.
    """

    hint: StatusHint | None
    received_at: datetime
    is_fresh: bool


@dataclass(frozen=True, slots=True)
class RecentWebhooks:
    """What the recent webhooks of a connection say.

    Attributes:
        hint: The status that the newest webhook names, if that webhook is recent or belongs to the read. Newest by the
            time at which Meld says it happened: an old webhook that arrives late says nothing about the present.
        groups: The webhooks that were fresh for every earlier read, grouped by the status that they name.
    """

    hint: StatusHint | None
    groups: tuple[WebhookGroup, ...]

    def needs_confirming_read(self, after: MirrorState) -> bool:
        """Return whether the read came soon after a webhook and cannot be checked against what the webhooks say.

        It can be checked if all webhooks of that time name one status. If they name several, an answer that shows the
        last one may be older than all of them; if one names no status, nothing can be compared.

        Args:
            after: The connection as read.
        """
        named = [group.hint for group in self.groups if group.is_fresh]
        return len(named) > 1 or any(one is None or one.contradicts(after) for one in named)

    def undone_at(self, before: MirrorState | None, after: MirrorState) -> datetime | None:
        """Return when the last webhook was received whose status neither the mirror nor the read shows, or None.

        The change that it announced was undone between two reads. Fresh webhooks are left to the confirming read. At
        first sight there is nothing to compare.

        Args:
            before: The connection as stored; None at first sight.
            after: The connection as read.
        """
        if before is None:
            return None
        undone = (
            group.received_at
            for group in self.groups
            if not group.is_fresh
            and group.hint is not None
            and group.hint.contradicts(before)
            and group.hint.contradicts(after)
        )
        return max(undone, default=None)


def get_recent_webhooks(
    database: Database, session: Session, lease: ReadLease, *, read_seconds: float, previous_read_at: datetime
) -> RecentWebhooks:
    """Return what the recent webhooks of a connection say.

    Args:
        database: The database.
        session: An open transaction, in which the webhooks of the lease are not marked as processed yet.
        lease: The lease of the read.
        read_seconds: How long the read took. Its answer may be as old as its beginning.
        previous_read_at: When the read before this one began.
    """
    newest = database.run(session, _newest_hint, connection=lease.connection_id).first()
    # Whole seconds, so that few statements are kept; rounded down, so that no webhook is fresh for its confirming read.
    rows = database.run(
        session,
        _not_yet_shown,
        int(read_seconds),
        connection=lease.connection_id,
        since=previous_read_at - timedelta(seconds=MAX_API_LAG_SECONDS),
    ).all()
    groups = (WebhookGroup(_status_hint(status, reason), *rest) for status, reason, *rest in rows)
    return RecentWebhooks(_hint(newest, lease) if newest is not None else None, tuple(groups))


def _hint(newest: tuple[int, str, str | None, bool], lease: ReadLease) -> StatusHint | None:
    id_, status, reason, is_recent = newest
    is_due = is_recent or any(webhook.id == id_ for webhook in lease.webhooks)
    return StatusHint(status, reason) if is_due else None


def _status_hint(status: str | None, reason: str | None) -> StatusHint | None:
    return StatusHint(status, reason) if status is not None else None


def _newest_hint(database: Database) -> Executable:
    is_recent = col(WebhookRow.received_at) > database.now(-HINT_SECONDS)
    hints = select(col(WebhookRow.id), col(WebhookRow.hint_status), col(WebhookRow.hint_reason), is_recent).where(
        col(WebhookRow.connection_id) == bindparam("connection"), col(WebhookRow.hint_status).is_not(None)
    )
    return hints.order_by(col(WebhookRow.occurred_at).desc().nulls_last(), col(WebhookRow.id).desc()).limit(1)


def _not_yet_shown(database: Database, read_seconds: int) -> Executable:
    # A query by time alone would scan the webhooks of all connections; so take the connection's newest ones first.
    columns = map(col, (WebhookRow.hint_status, WebhookRow.hint_reason, WebhookRow.received_at))
    newest = select(*columns).where(col(WebhookRow.connection_id) == bindparam("connection"))
    webhook = newest.order_by(col(WebhookRow.id).desc()).limit(MAX_WEBHOOKS).subquery().c
    fresh_since = database.now(-MAX_API_LAG_SECONDS - read_seconds)
    last = func.max(webhook.received_at)
    is_recent = or_(webhook.received_at > bindparam("since", type_=UTCDateTime()), webhook.received_at > fresh_since)
    groups = select(webhook.hint_status, webhook.hint_reason, last, last > fresh_since).where(is_recent)
    return groups.group_by(webhook.hint_status, webhook.hint_reason)
