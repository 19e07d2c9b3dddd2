"""News: what webhooks have lately said of a connection, and what a read may have missed of it.

The newest that names a status is held against the read. The others tell of what came before, which the read need not
show: where something changed there and back, nothing else does.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Executable, and_, bindparam, func, or_, select
from sqlmodel import Session, col

from runtime.database import Database
from schemas.tables import ObservationRow, WebhookRow
from workers.refetch.decision import Announced, MirrorState
from workers.refetch.follow_up_reads import RECHECK_SECONDS, SETTLE_SECONDS
from workers.refetch.lease import ReadLease

HINT_SECONDS = sum(RECHECK_SECONDS) + 180
"""How long a hint is held against reads: as long as its rechecks take, with some room."""

MOST_SAID = 500
"""Webhooks that are looked at, the newest ones of the connection: many more than come in that time."""

MOST_SHOWN = 20
"""Observations that are searched for a status, the newest ones. Meld's connections change a few times a day."""


@dataclass(frozen=True, slots=True)
class Word:
    """What one or more webhooks say.

    Attributes:
        announced: The status that they name; None where they name none.
        occurred_at: When the last of what they are about happened, as Meld says.
        received_at: When the last of them came.
        is_late: Whether that was so lately that the read may not have seen its cause.
    """

    announced: Announced | None
    occurred_at: datetime
    received_at: datetime
    is_late: bool


@dataclass(frozen=True, slots=True)
class News:
    """What was lately said of a connection.

    Attributes:
        hint: What the newest hint announced, if it is recent or one that the read covers. Newest by when Meld says that
            it happened: an old hint that comes late says nothing about now.
        words: Everything that was said since rechecks of it may be owed, or that the read is owed to.
    """

    hint: Announced | None
    words: tuple[Word, ...]

    @property
    def is_early(self) -> bool:
        """Whether the read may have missed what webhooks speak of, though it does not contradict the newest.

        They name no status, or different ones: what the newest names may be how it was before all of them.
        """
        late = [word for word in self.words if word.is_late]
        return len(late) > 1 or any(word.announced is None for word in late)

    def unlike(self, before: MirrorState | None, after: MirrorState) -> tuple[Word, ...]:
        """Return what names another status than both; nothing at first sight, which its group is looked at for anyway.

        Args:
            before: The connection as stored; None at first sight.
            after: The connection as read.
        """
        if before is None:
            return ()
        return tuple(word for word in self.words if _is_unlike(word.announced, before, after))


def news_of(database: Database, session: Session, claim: ReadLease, *, took: float) -> News:
    """Return what was lately said of a connection.

    Args:
        database: The database.
        session: An open transaction, in which the claim's webhooks are not marked yet.
        claim: The claim of the read.
        took: The seconds from the read's beginning to its answer, which may be as old as that.
    """
    newest = database.run(session, _newest, connection=claim.connection_id).first()
    # In whole seconds, so that few statements are kept, and downwards: the read that settles this one is not early.
    rows = database.run(session, _said, int(took), connection=claim.connection_id).all()
    words = (Word(_announced(status, reason), *rest) for status, reason, *rest in rows)
    return News(_hint(newest, claim) if newest is not None else None, tuple(words))


def passed_over(database: Database, session: Session, connection_id: str, words: Collection[Word]) -> datetime | None:
    """Return when the last webhook came that names a status which no observation has shown; None where there is none.

    One that was made before what the webhook is about does not count.

    Args:
        database: The database.
        session: An open transaction.
        connection_id: The connection.
        words: What its mirror and its latest read do not show.
    """
    if not words:
        return None
    seen = database.run(session, _shown, connection=connection_id).all()
    return max((word.received_at for word in words if not any(_is_in(word, *each) for each in seen)), default=None)


def _is_unlike(announced: Announced | None, before: MirrorState, after: MirrorState) -> bool:
    return announced is not None and announced.contradicts(before) and announced.contradicts(after)


def _is_in(word: Word, began_at: datetime, status: str | None, reason: str | None) -> bool:
    """Return whether an observation shows what was announced."""
    if word.announced is None or status is None or began_at < word.occurred_at:
        return False
    return word.announced.fits(status, reason)


def _hint(newest: tuple[int, str, str | None, bool], claim: ReadLease) -> Announced | None:
    id_, status, reason, is_recent = newest
    is_due = is_recent or any(webhook.id == id_ for webhook in claim.webhooks)
    return Announced(status, reason) if is_due else None


def _announced(status: str | None, reason: str | None) -> Announced | None:
    return Announced(status, reason) if status is not None else None


def _newest(database: Database) -> Executable:
    is_recent = col(WebhookRow.received_at) > database.now(-HINT_SECONDS)
    hints = select(col(WebhookRow.id), col(WebhookRow.hint_status), col(WebhookRow.hint_reason), is_recent).where(
        col(WebhookRow.connection_id) == bindparam("connection"), col(WebhookRow.hint_status).is_not(None)
    )
    return hints.order_by(col(WebhookRow.occurred_at).desc().nulls_last(), col(WebhookRow.id).desc()).limit(1)


def _said(database: Database, took: int) -> Executable:
    # The connection's newest, and of those the ones of that time: asked for the time, a database would look at
    # everybody's.
    columns = map(col, (WebhookRow.hint_status, WebhookRow.hint_reason, WebhookRow.occurred_at, WebhookRow.received_at))
    is_pending = and_(col(WebhookRow.processed_at).is_(None), col(WebhookRow.ignored_at).is_(None))
    newest = select(*columns, is_pending.label("is_pending")).where(
        col(WebhookRow.connection_id) == bindparam("connection")
    )
    said = newest.order_by(col(WebhookRow.id).desc()).limit(MOST_SAID).subquery().c
    happened, last = func.max(func.coalesce(said.occurred_at, said.received_at)), func.max(said.received_at)
    is_late = last > database.now(-SETTLE_SECONDS - took)
    words = select(said.hint_status, said.hint_reason, happened, last, is_late).where(
        or_(said.is_pending, said.received_at > database.now(-HINT_SECONDS))
    )
    return words.group_by(said.hint_status, said.hint_reason)


def _shown(_database: Database) -> Executable:
    document = col(ObservationRow.document)
    status, reason = document["status"].as_string(), document["statusReason"].as_string()
    shown = select(col(ObservationRow.began_at), status, reason).where(
        col(ObservationRow.connection_id) == bindparam("connection"), col(ObservationRow.found)
    )
    return shown.order_by(col(ObservationRow.id).desc()).limit(MOST_SHOWN)
