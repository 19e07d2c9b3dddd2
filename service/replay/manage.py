"""Manage replays: create, list, get, stop and resume, each change with an audit entry. The runner does the work.

The API and the command line both use this. The operator who stops or resumes a replay need not be the one who started
it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import func
from sqlmodel import Session, col, select

from runtime import audit
from runtime.database import Database
from runtime.queues.reads import is_pending
from schemas.api_queries import ReplayQuery
from schemas.api_responses import ReplayPage
from schemas.replays import DEFAULT_RATE, NewReplay, Replay, ReplayKind
from schemas.tables import DeliveryRow, ReadRequestRow, ReplayRow
from service.errors import ConflictError, NotFoundError
from service.http.pagination import PagedList
from service.replay.runner import find_leased
from service.replay.selection import get_newest
from service.subscriptions.lookup import get_subscription

REPLAYS = PagedList(
    statement=select(ReplayRow),
    key=col(ReplayRow.id),
    query_model=ReplayQuery,
    filters={},
    page_model=ReplayPage,
)


class ReplayManager:
    """Changes replays for operators. The argument ``who`` of a method names the operator in the audit log.

    Args:
        database: The database.
        new_id: Generates a unique id; each sorts behind the previous one.
    """

    def __init__(self, *, database: Database, new_id: Callable[[], str]) -> None:
        self._database = database
        self._new_id = new_id

    def create(self, new: NewReplay, *, who: str) -> Replay:
        """Create a replay of what is stored now. A process with a ``ReplayRunner`` runs it.

        Raises:
            NotFoundError: If there is no such subscription.
        """
        with self._database.write() as session:
            row = ReplayRow(
                id=self._new_id(),
                kind=new.kind,
                filter=new.filter,
                subscription_id=get_subscription(session, new.subscription).id if new.subscription else None,
                rate=(new.rate or DEFAULT_RATE) if new.kind == "webhooks" else None,
                who=who,
                created_at=self._now(session),
                newest=get_newest(session, new.kind),
            )
            session.add(row)
            details = row.model_dump(mode="json", include={"kind", "filter", "subscription_id", "rate"})
            self._audit(session, "started", row, who=who, **details)
            return self._to_replays(session, [row])[0]

    def stop(self, replay_id: str, *, who: str) -> Replay:
        """Stop a replay after its present step. Reads and deliveries that it has requested are still done.

        Raises:
            NotFoundError: If there is none.
            ConflictError: If it has ended.
        """
        with self._database.write() as session:
            row = _get_unfinished(session, replay_id)
            if row.stopped_at is None:
                row.stopped_at = self._now(session)
                self._audit(session, "stopped", row, who=who, done=row.done)
            return self._to_replays(session, [row])[0]

    def resume(self, replay_id: str, *, who: str, kind: ReplayKind | None = None, rate: float | None = None) -> Replay:
        """Resume a stopped replay where it was; one that is not stopped only gets the new rate.

        Args:
            replay_id: The replay.
            who: The operator.
            kind: The kind that the replay must have; None for either.
            rate: The new rate of a replay of webhooks, in reads a second; None keeps its rate.

        Raises:
            NotFoundError: If there is none.
            ConflictError: If it has ended or is of another kind.
        """
        with self._database.write() as session:
            row = _get_unfinished(session, replay_id)
            if kind is not None and row.kind != kind:
                raise ConflictError(f"It is a replay of {row.kind}: `meldwatch replay {row.kind} --resume {row.id}`.")
            has_new_rate = row.kind == "webhooks" and rate is not None and rate != row.rate
            if has_new_rate:
                row.rate = rate
            if row.stopped_at is not None or has_new_rate:
                row.stopped_at = None
                self._audit(session, "resumed", row, who=who, done=row.done, rate=row.rate)
            return self._to_replays(session, [row])[0]

    def list_page(self, query: ReplayQuery) -> ReplayPage:
        """Return a page of replays, oldest first."""
        with self._database.read() as session:
            rows, cursor = REPLAYS.fetch(session, query)
            replays = self._to_replays(session, rows)
        return REPLAYS.page(replays, cursor)

    def get(self, replay_id: str) -> Replay:
        """Return a replay.

        Raises:
            NotFoundError: If there is none.
        """
        with self._database.read() as session:
            return self._to_replays(session, [_get(session, replay_id)])[0]

    def _audit(self, session: Session, verb: str, row: ReplayRow, *, who: str, **details: object) -> None:
        audit.append_entry(
            self._database,
            session,
            who=who,
            act=f"replay.{verb}",
            subject=row.id,
            connection_id=row.filter.get("connection"),
            details=details,
        )

    def _to_replays(self, session: Session, rows: Sequence[ReplayRow]) -> list[Replay]:
        leased = find_leased(self._database, session, [row.id for row in rows])
        pending = {**_count_pending_reads(session, rows), **_count_pending_deliveries(session, rows)}
        return [Replay.from_row(row, is_leased=row.id in leased, pending=pending.get(row.id, 0)) for row in rows]

    def _now(self, session: Session) -> datetime:
        return session.exec(select(self._database.now())).one()


def _get(session: Session, replay_id: str, *, is_locked: bool = False) -> ReplayRow:
    row = session.get(ReplayRow, replay_id, with_for_update=is_locked or None)
    if row is None:
        raise NotFoundError(f"There is no replay {replay_id[:100]!r}. List the replays with /api/replays.")
    return row


def _get_unfinished(session: Session, replay_id: str) -> ReplayRow:
    row = _get(session, replay_id, is_locked=True)
    if row.finished_at is not None:
        raise ConflictError("This replay has ended. Start another one.")
    return row


def _count_pending_reads(session: Session, rows: Sequence[ReplayRow]) -> dict[str | None, int]:
    """Count the pending reads by the replay that requested them. Reads requested by others since do not count."""
    ids = [row.id for row in rows if row.kind == "webhooks"]
    pending = select(ReadRequestRow.replay_id, func.count()).where(col(ReadRequestRow.replay_id).in_(ids), is_pending())
    return dict(session.exec(pending.group_by(col(ReadRequestRow.replay_id))).all()) if ids else {}


def _count_pending_deliveries(session: Session, rows: Sequence[ReplayRow]) -> dict[str | None, int]:
    """Count the deliveries that are not acknowledged yet, by the replay that appended them; dead ones do not count."""
    replays = [row for row in rows if row.kind == "events"]
    pending = select(DeliveryRow.replay_id, func.count()).where(
        col(DeliveryRow.subscription_id).in_({row.subscription_id for row in replays}),
        col(DeliveryRow.replay_id).in_([row.id for row in replays]),
        col(DeliveryRow.delivered_at).is_(None),
        col(DeliveryRow.dead_at).is_(None),
    )
    return dict(session.exec(pending.group_by(col(DeliveryRow.replay_id))).all()) if replays else {}
