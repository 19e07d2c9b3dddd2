"""Recent webhooks of a connection: the newest status hint, and whether a read may have been too early for one of them.

A webhook is *settled* by the first read that begins ``SETTLE_SECONDS`` or more after the webhook was received: Meld's
API lags behind Meld's webhooks, but not for longer than that.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Executable, bindparam, func, or_, select
from sqlmodel import Session, col

from runtime.database import Database
from schemas.tables import WebhookRow
from sqlmodel.sql.sqltypes import UTCDateTime
from workers.refetch.decision import Announced, MirrorState
from workers.refetch.follow_up_reads import RECHECK_SECONDS, SETTLE_SECONDS
from workers.refetch.lease import ReadLease

HINT_SECONDS = sum(RECHECK_SECONDS) + 180
"""How long reads are compared with a hint: as long as its rechecks take, with some room."""

MAX_WEBHOOKS = 500
"""How many of the connection's newest webhooks are searched: many more than it receives between two reads."""


@dataclass(frozen=True, slots=True)
class WebhookGroup:
    """The webhooks that name the same status, among those that no earlier read has settled.

    Attributes:
        announced: The status and reason that they name; None for webhooks that name none.
        received_at: When the last of them was received.
        is_settled: Whether the read began late enough after that to show what the webhooks are about.
    """

    announced: Announced | None
    received_at: datetime
    is_settled: bool


@dataclass(frozen=True, slots=True)
class RecentWebhooks:
    """What the recent webhooks of a connection say.

    Attributes:
        hint: The status that the newest webhook names, if that webhook is recent or belongs to the read. Newest by the
            time at which Meld says it happened: an old webhook that arrives late says nothing about the present.
        groups: The webhooks that no earlier read has settled, grouped by the status that they name.
    """

    hint: Announced | None
    groups: tuple[WebhookGroup, ...]

    def needs_confirming_read(self, after: MirrorState) -> bool:
        """Return whether the read came soon after a webhook and cannot be checked against what the webhooks say.

        It can be checked if all webhooks of that time name one status. If they name several, an answer that shows the
        last one may be older than all of them; if one names no status, nothing can be compared.

        Args:
            after: The connection as read.
        """
        named = [group.announced for group in self.groups if not group.is_settled]
        return len(named) > 1 or any(one is None or one.contradicts(after) for one in named)

    def undone_at(self, before: MirrorState | None, after: MirrorState) -> datetime | None:
        """Return when the last settled webhook was received whose status shows neither before nor after the read.

        The change that it announced was undone between two reads. At first sight nothing is compared.

        Args:
            before: The connection as stored; None at first sight.
            after: The connection as read.
        """
        if before is None:
            return None
        undone = (
            group.received_at
            for group in self.groups
            if group.is_settled
            and group.announced is not None
            and group.announced.contradicts(before)
            and group.announced.contradicts(after)
        )
        return max(undone, default=None)


def recent_webhooks(
    database: Database, session: Session, claim: ReadLease, *, seconds: float, previous_read_at: datetime
) -> RecentWebhooks:
    """Return what the recent webhooks of a connection say.

    Args:
        database: The database.
        session: An open transaction, in which the webhooks of the lease are not marked as processed yet.
        claim: The lease of the read.
        seconds: How long the read took. Its answer may be as old as its beginning.
        previous_read_at: When the read before this one began.
    """
    newest = database.run(session, _newest_hint, connection=claim.connection_id).first()
    # Whole seconds, so that the database keeps few statements; rounded down, so that a confirming read settles.
    rows = database.run(
        session,
        _unsettled,
        int(seconds),
        connection=claim.connection_id,
        since=previous_read_at - timedelta(seconds=SETTLE_SECONDS),
    ).all()
    groups = (WebhookGroup(_announced(status, reason), *rest) for status, reason, *rest in rows)
    return RecentWebhooks(_hint(newest, claim) if newest is not None else None, tuple(groups))


def _hint(newest: tuple[int, str, str | None, bool], claim: ReadLease) -> Announced | None:
    id_, status, reason, is_recent = newest
    is_due = is_recent or any(webhook.id == id_ for webhook in claim.webhooks)
    return Announced(status, reason) if is_due else None


def _announced(status: str | None, reason: str | None) -> Announced | None:
    return Announced(status, reason) if status is not None else None


def _newest_hint(database: Database) -> Executable:
    is_recent = col(WebhookRow.received_at) > database.now(-HINT_SECONDS)
    hints = select(col(WebhookRow.id), col(WebhookRow.hint_status), col(WebhookRow.hint_reason), is_recent).where(
        col(WebhookRow.connection_id) == bindparam("connection"), col(WebhookRow.hint_status).is_not(None)
    )
    return hints.order_by(col(WebhookRow.occurred_at).desc().nulls_last(), col(WebhookRow.id).desc()).limit(1)


def _unsettled(database: Database, seconds: int) -> Executable:
    # A query by time alone would scan the webhooks of all connections; so take the connection's newest ones first.
    columns = map(col, (WebhookRow.hint_status, WebhookRow.hint_reason, WebhookRow.received_at))
    newest = select(*columns).where(col(WebhookRow.connection_id) == bindparam("connection"))
    webhook = newest.order_by(col(WebhookRow.id).desc()).limit(MAX_WEBHOOKS).subquery().c
    last, settled = func.max(webhook.received_at), database.now(-SETTLE_SECONDS - seconds)
    is_since = or_(webhook.received_at > bindparam("since", type_=UTCDateTime()), webhook.received_at > settled)
    groups = select(webhook.hint_status, webhook.hint_reason, last, last <= settled).where(is_since)
    return groups.group_by(webhook.hint_status, webhook.hint_reason)
