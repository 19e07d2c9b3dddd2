"""Claim: a lease on one connection's job, so that one read per connection is under way, whoever was called how often.

Any number of hints meanwhile raise the job's number, and cost one more read.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, or_, update
from sqlmodel import Session, col, select

from runtime import gate, jobs
from runtime.database import Database
from schemas.jobs import Trigger
from schemas.tables import Job, Webhook

CHUNK = 500
"""Ids per statement; SQLite takes no more than 32,766 parameters."""


@dataclass(frozen=True, slots=True)
class Covered:
    """A webhook that was stored before the claim: the read that follows is the one owed to it."""

    id: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to read one connection and to write down what was read, until the lease ends.

    Attributes:
        connection_id: The connection.
        token: The fence: what is written must bear it.
        generation: The number that the job had; the read completes it.
        attempts: Which attempt this is.
        is_dead: Whether the job had been given up before.
        is_probe: Whether it finds out if a pause is over.
        trigger: Why the read is owed.
        depth: How far the wish came through siblings.
        error: What went wrong with the read before, if that failed.
        webhooks: The webhooks that it is owed to.
    """

    connection_id: str
    token: str
    generation: int
    attempts: int
    is_dead: bool
    is_probe: bool
    trigger: Trigger
    depth: int
    error: str | None
    webhooks: tuple[Covered, ...]

    @property
    def cause(self) -> Trigger:
        """What an event tells as its trigger: the webhooks come first, whatever else was wished meanwhile."""
        return "webhook" if self.webhooks else self.trigger

    @property
    def event_ids(self) -> list[str]:
        """The event ids of the webhooks that it covers."""
        return [webhook.event_id for webhook in self.webhooks]


def take(database: Database, session: Session, connection_id: str, *, token: str, lease_seconds: float) -> Claim | None:
    """Claim a connection; None where nothing is owed now, somebody else is at it, or reads are paused.

    The webhooks are looked up after the lease was taken and before the read begins: all that are seen were committed
    before the read, which is what they are owed.
    """
    is_free = or_(col(Job.leased_until).is_(None), col(Job.leased_until) < database.now())
    lease = (
        update(Job)
        .where(
            col(Job.connection_id) == connection_id,
            col(Job.requested) > col(Job.completed),
            col(Job.due_at) <= database.now(),
            is_free,
        )
        .values(
            lease_token=token,
            leased_until=database.now(lease_seconds),
            # The call has arrived; should this process die, the clock calls as soon as the lease has ended.
            woken_at=None,
            attempts=Job.attempts + 1,
        )
        .returning(
            col(Job.requested), col(Job.attempts), col(Job.failed_at), col(Job.trigger), col(Job.depth), col(Job.error)
        )
    )
    row = session.exec(lease).one_or_none()
    if row is None:
        return None
    entry = gate.enter(database, session, probe_seconds=lease_seconds)
    if entry == "closed":
        _defer(session, connection_id)
        return None
    requested, attempts, failed_at, trigger, depth, error = row
    pending = (
        select(Webhook.id, Webhook.event_id)
        .where(
            Webhook.connection_id == connection_id,
            col(Webhook.processed_at).is_(None),
            col(Webhook.ignored_at).is_(None),
        )
        .order_by(col(Webhook.id))
    )
    covered = tuple(Covered(id_, event_id) for id_, event_id in session.exec(pending).all() if id_ is not None)
    return Claim(
        connection_id=connection_id,
        token=token,
        generation=requested,
        attempts=attempts,
        is_dead=failed_at is not None,
        is_probe=entry == "probe",
        trigger=trigger,
        depth=depth,
        error=error,
        webhooks=covered,
    )


def mark_webhooks(session: Session, claim: Claim, **steps: Any) -> None:  # noqa: ANN401 - a column's value
    """Set columns of the webhooks that the claim covers. Locked in order, as the inbox does when it counts repeats."""
    ids = [webhook.id for webhook in claim.webhooks]
    for start in range(0, len(ids), CHUNK):
        chunk = select(Webhook.id).where(col(Webhook.id).in_(ids[start : start + CHUNK]))
        locked = chunk.order_by(col(Webhook.id)).with_for_update().cte("locked")
        mark = update(Webhook).where(col(Webhook.id).in_(select(locked.c.id)))
        session.exec(mark.values(**steps))


def release(session: Session, tokens: list[str]) -> None:
    """Give claims back whose reads will not be waited for; they cost no attempt, and the clock calls at once."""
    held = jobs.in_order(col(Job.lease_token).in_(tokens))
    session.exec(update(Job).where(col(Job.connection_id).in_(held)).values(_given_back()))


def _defer(session: Session, connection_id: str) -> None:
    """Give a claim back that came during a pause: still due, and called by the clock when the pause is over."""
    session.exec(update(Job).where(col(Job.connection_id) == connection_id).values(_given_back()))


def _given_back() -> dict[str, Any]:
    # A webhook that came meanwhile has given it all attempts anew.
    attempts = case((col(Job.attempts) > 0, Job.attempts - 1), else_=0)
    return {"lease_token": None, "leased_until": None, "attempts": attempts}
