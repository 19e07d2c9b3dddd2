"""Replay: what an operator does with replays, over the API and the command line alike. See ``player.py`` for the rest.

Each act is noted in its own transaction. Who started a replay need not be who stops or resumes it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import func
from sqlmodel import Session, col, select

from runtime import audit
from runtime.database import Database
from schemas import tables
from schemas.api_queries import ReplayQuery
from schemas.api_responses import ReplayPage
from schemas.replays import DEFAULT_RATE, NewReplay, Replay, ReplayKind
from schemas.tables import DeliveryRow, ReadRequestRow, SubscriptionRow
from service.errors import ConflictError, UnknownError
from service.replay.runner import held_of
from service.replay.selection import newest


class ReplayManager:
    """The verbs of replays.

    Args:
        database: The database.
        new_id: Makes an id, never the same twice, each behind the one before.
    """

    def __init__(self, *, database: Database, new_id: Callable[[], str]) -> None:
        self._database = database
        self._new_id = new_id

    def start(self, wish: NewReplay, *, who: str, is_attended: bool = False) -> Replay:
        """Start a replay of what there is now. Whoever runs such replays takes it up.

        Raises:
            UnknownError: Where there is no such subscription.
        """
        with self._database.write() as session:
            row = tables.ReplayRow(
                id=self._new_id(),
                kind=wish.kind,
                filter=wish.filter,
                subscription_id=subscription_of(session, wish.subscription).id if wish.subscription else None,
                rate=(wish.rate or DEFAULT_RATE) if wish.kind == "webhooks" else None,
                who=who,
                is_attended=is_attended,
                created_at=self._now(session),
                newest=newest(session, wish.kind),
            )
            session.add(row)
            details = row.model_dump(mode="json", include={"kind", "filter", "subscription_id", "rate"})
            self._note(session, "started", row, who=who, **details)
            return self._told(session, [row])[0]

    def stop(self, replay_id: str, *, who: str) -> Replay:
        """Stop a replay behind the step that it is at; what it has asked for is done all the same.

        Raises:
            UnknownError: Where there is none.
            ConflictError: Where it has ended.
        """
        with self._database.write() as session:
            row = _get(session, replay_id, is_locked=True)
            _must_last(row)
            if row.stopped_at is None:
                row.stopped_at = self._now(session)
                self._note(session, "stopped", row, who=who, done=row.done)
            return self._told(session, [row])[0]

    def resume(self, replay_id: str, *, who: str) -> Replay:
        """Have the service go on with a replay where it was, whoever ran it before.

        Raises:
            UnknownError: Where there is none.
            ConflictError: Where it has ended.
        """
        with self._database.write() as session:
            row = _get(session, replay_id, is_locked=True)
            _must_last(row)
            if row.stopped_at is not None or row.is_attended:
                self._resume(session, row, who=who, is_attended=False)
            return self._told(session, [row])[0]

    def attend(self, replay_id: str, kind: ReplayKind, *, who: str, rate: float | None = None) -> Replay:
        """Go on with a replay where it was, in an operator's command.

        Raises:
            UnknownError: Where there is none.
            ConflictError: Where it has ended, is of another kind, or is run by the service.
        """
        with self._database.write() as session:
            row = _get(session, replay_id, is_locked=True)
            _must_last(row)
            if row.kind != kind:
                raise ConflictError(f"It is a replay of {row.kind}: `meldwatch replay {row.kind} --resume {row.id}`.")
            if row.stopped_at is None and not row.is_attended:
                raise ConflictError(f"The service runs this replay. Stop it first: `meldwatch replay stop {row.id}`.")
            if row.kind == "webhooks":
                row.rate = rate or row.rate
            self._resume(session, row, who=who, is_attended=True)
            return self._told(session, [row])[0]

    def find(self, query: ReplayQuery) -> ReplayPage:
        """Return a page of replays, in the order in which they were started."""
        statement = select(tables.ReplayRow).order_by(col(tables.ReplayRow.id))
        if query.after is not None:
            statement = statement.where(col(tables.ReplayRow.id) > query.after)
        with self._database.read() as session:
            # One more than the page tells whether there is a next one.
            rows = session.exec(statement.limit(query.limit + 1)).all()
            page = self._told(session, rows[: query.limit])
        return ReplayPage(replays=page, next=page[-1].id if len(rows) > query.limit else None)

    def get(self, replay_id: str) -> Replay:
        """Return a replay.

        Raises:
            UnknownError: Where there is none.
        """
        with self._database.read() as session:
            return self._told(session, [_get(session, replay_id)])[0]

    def _resume(self, session: Session, row: tables.ReplayRow, *, who: str, is_attended: bool) -> None:
        row.stopped_at, row.is_attended = None, is_attended
        self._note(session, "resumed", row, who=who, done=row.done, rate=row.rate)

    def _note(self, session: Session, verb: str, row: tables.ReplayRow, *, who: str, **details: object) -> None:
        audit.note(
            self._database,
            session,
            who=who,
            act=f"replay.{verb}",
            subject=row.id,
            connection_id=row.filter.get("connection"),
            details=details,
        )

    def _told(self, session: Session, rows: Sequence[tables.ReplayRow]) -> list[Replay]:
        held = held_of(self._database, session, [row.id for row in rows])
        pending = {**_owed(session, rows), **_unsent(session, rows)}
        return [Replay.from_row(row, is_held=row.id in held, pending=pending.get(row.id, 0)) for row in rows]

    def _now(self, session: Session) -> datetime:
        return session.exec(select(self._database.now())).one()


def subscription_of(session: Session, key: str) -> SubscriptionRow:
    """Return a subscription, by its id or its name.

    Raises:
        UnknownError: Where there is none.
    """
    for column in (SubscriptionRow.id, SubscriptionRow.name):
        row = session.exec(select(SubscriptionRow).where(column == key)).first()
        if row is not None:
            return row
    raise UnknownError(f"There is no subscription {key[:100]!r}. See /api/subscriptions for those that there are.")


def _get(session: Session, replay_id: str, *, is_locked: bool = False) -> tables.ReplayRow:
    row = session.get(tables.ReplayRow, replay_id, with_for_update=is_locked or None)
    if row is None:
        raise UnknownError(f"There is no replay {replay_id[:100]!r}. See /api/replays for those that there are.")
    return row


def _must_last(row: tables.ReplayRow) -> None:
    if row.finished_at is not None:
        raise ConflictError("This replay has ended. Start another one.")


def _owed(session: Session, rows: Sequence[tables.ReplayRow]) -> dict[str | None, int]:
    """Count the reads that replays have asked for and that are still owed, by replay; not what others ask for since."""
    ids = [row.id for row in rows if row.kind == "webhooks"]
    owed = select(ReadRequestRow.replay_id, func.count()).where(
        col(ReadRequestRow.replay_id).in_(ids), ReadRequestRow.requested > ReadRequestRow.completed
    )
    return dict(session.exec(owed.group_by(col(ReadRequestRow.replay_id))).all()) if ids else {}


def _unsent(session: Session, rows: Sequence[tables.ReplayRow]) -> dict[str | None, int]:
    """Count the events of replays that their subscribers have not taken yet, by replay; those that died are no more."""
    events = [row for row in rows if row.kind == "events"]
    unsent = select(DeliveryRow.replay_id, func.count()).where(
        col(DeliveryRow.subscription_id).in_({row.subscription_id for row in events}),
        col(DeliveryRow.replay_id).in_([row.id for row in events]),
        col(DeliveryRow.delivered_at).is_(None),
        col(DeliveryRow.dead_at).is_(None),
    )
    return dict(session.exec(unsent.group_by(col(DeliveryRow.replay_id))).all()) if events else {}
