"""Player: takes replays through their steps. Each step is one commit together with the place where it ends.

So one that was killed goes on where it was. One process at a time is at a replay, under a lease of its own, whichever
process that is: an operator's command for those that are attended, `clock` or `up` for all others.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime

from sqlmodel import Session, col, select

from runtime import logs
from runtime.database import Database
from runtime.errors import MeldwatchError, OutOfReachError
from runtime.queues.task_lease import TaskLease
from schemas.replays import ReplayKind
from schemas.tables import ReplayRow, TaskLeaseRow
from service.replay.event_replay import resend
from service.replay.selection import LOOK, selection_of
from service.replay.step import ReplayStep
from service.replay.webhook_replay import reread

log = logs.get(__name__)

LEASE_SECONDS = 15.0
"""How long a replay waits for whoever was at it and has not been heard of."""

HOLD_SECONDS = 5.0
"""How often somebody who rests between two steps says that it is there, and looks whether it was told to stop."""

TURN = "replay "
"""What a replay's lease is called, with its id behind it."""

Steps = Mapping[str, Callable[[Database, Session, ReplayRow], ReplayStep]]
"""What makes a step, by the replay's kind."""

STEPS: Steps = {"webhooks": reread, "events": resend}

Progress = Callable[[ReplayRow, str | None], None]
"""Told after every step how far the replay has come, and what it waits for."""


class TakenError(MeldwatchError):
    """Somebody else is at this replay."""

    def __init__(self) -> None:
        super().__init__("Another process is at this replay. Stop it there, or wait until it has ended.")


class ReplayRunner:
    """Plays replays, one at a time.

    Args:
        database: The database.
        call: Calls workers for connections; may raise ``OutOfReachError``, then the clock does.
        holder: Names this process in the leases.
        wait: Waits for so many seconds; returns whether to end.
        is_attended: Whether it plays those that an operator's command runs, or all others.
        steps: What makes their steps.
    """

    def __init__(
        self,
        *,
        database: Database,
        call: Callable[[Collection[str]], None],
        holder: str,
        wait: Callable[[float], bool],
        is_attended: bool,
        steps: Steps = STEPS,
    ) -> None:
        self._database = database
        self._call = call
        self._holder = holder
        self._wait = wait
        self._is_attended = is_attended
        self._steps = steps

    def due(self, kind: ReplayKind) -> str | None:
        """Return the oldest replay that nobody is at and that the service has to run."""
        waiting = select(ReplayRow.id).where(
            ReplayRow.kind == kind,
            col(ReplayRow.is_attended).is_(False),
            col(ReplayRow.stopped_at).is_(None),
            col(ReplayRow.finished_at).is_(None),
        )
        with self._database.read() as session:
            ids = session.exec(waiting.order_by(col(ReplayRow.created_at), col(ReplayRow.id))).all()
            held = held_of(self._database, session, ids)
        return next((id_ for id_ in ids if id_ not in held), None)

    def play(self, replay_id: str, progress: Progress = lambda _row, _waits: None) -> ReplayRow:
        """Go on with a replay until it is over, was stopped, or this process shall end; return it as it is then.

        Raises:
            TakenError: Where somebody else is at it.
            OutOfReachError: Where the database does not answer; whoever takes it up goes on from here.
        """
        turn = TaskLease(database=self._database, name=TURN + replay_id, holder=self._holder, seconds=LEASE_SECONDS)
        try:
            row = self._begin(turn, replay_id)
            if row.total is None:
                row = self._count(turn, row)
            waited: str | None = None
            while self._is_mine(row):
                row, step = self._step(turn, replay_id)
                progress(row, step.waits)
                if step.waits is not None and step.waits != waited:
                    log.info("replay waits", replay_id=replay_id, detail=step.waits)
                waited = step.waits
                if self._is_mine(row) and self._rest(turn, replay_id, step.rest):
                    break
            return row
        finally:
            with suppress(OutOfReachError), self._database.write() as session:
                turn.leave(session)

    def _begin(self, turn: TaskLease, replay_id: str) -> ReplayRow:
        """Take the lease. One that was killed may hold it still; an operator who resumes it need not try again."""
        waited = 0.0
        while True:
            try:
                with self._database.write() as session:
                    return self._hold(session, turn, replay_id)
            except TakenError:
                if not self._is_attended or waited > LEASE_SECONDS or self._wait(1.0):
                    raise
                waited += 1.0

    def _hold(self, session: Session, turn: TaskLease, replay_id: str) -> ReplayRow:
        """Lock a replay, and take its lease or make it last."""
        row = session.get_one(ReplayRow, replay_id, with_for_update=True)
        if self._is_mine(row) and not turn.take(session):
            raise TakenError
        return row

    def _is_mine(self, row: ReplayRow) -> bool:
        """Return whether there is anything left to do here."""
        return row.finished_at is None and row.stopped_at is None and row.is_attended == self._is_attended

    def _count(self, turn: TaskLease, row: ReplayRow) -> ReplayRow:
        """Find out how much there is to do. Nothing is kept of that before its end: it is begun anew if need be."""
        after, total, is_whole = "", 0, False
        while self._is_mine(row) and not is_whole:
            with self._database.read() as session:
                ahead = selection_of(session, row).ahead(session, after)
            total += sum(each.amount for each in ahead)
            after, is_whole = ahead[-1].connection_id if ahead else after, len(ahead) < LOOK
            with self._database.write() as session:
                row = self._hold(session, turn, row.id)
                row.total = total if is_whole else None
            if self._wait(0):
                break
        return row

    def _step(self, turn: TaskLease, replay_id: str) -> tuple[ReplayRow, ReplayStep]:
        with self._database.write() as session:
            row = self._hold(session, turn, replay_id)
            if not self._is_mine(row):
                return row, ReplayStep(after=row.after)
            step = self._steps[row.kind](self._database, session, row)
            row.after, row.done, row.error = step.after, row.done + step.count, step.error
            if step.is_last or step.error is not None:
                row.finished_at = self._now(session)
                turn.forget(session)
        if step.calls:
            # The clock calls for those that the broker does not take.
            with suppress(OutOfReachError):
                self._call(step.calls)
        return row, step

    def _rest(self, turn: TaskLease, replay_id: str, seconds: float) -> bool:
        """Wait for the next step; return whether to end. A long rest is interrupted to keep the lease."""
        while seconds > HOLD_SECONDS:
            if self._wait(HOLD_SECONDS):
                return True
            seconds -= HOLD_SECONDS
            with self._database.write() as session:
                if not self._is_mine(self._hold(session, turn, replay_id)):
                    return False
        return self._wait(seconds)

    def _now(self, session: Session) -> datetime:
        return session.exec(select(self._database.now())).one()


def held_of(database: Database, session: Session, ids: Collection[str]) -> set[str]:
    """Return those of the replays that somebody is at."""
    names = [TURN + id_ for id_ in ids]
    held = select(TaskLeaseRow.name).where(col(TaskLeaseRow.name).in_(names), col(TaskLeaseRow.until) > database.now())
    return {name.removeprefix(TURN) for name in session.exec(held).all()}
