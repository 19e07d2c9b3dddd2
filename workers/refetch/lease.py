"""Claim: a lease on one connection's job, so that one read per connection is under way, whoever was called how often.

Any number of hints meanwhile raise the job's number, and cost one more read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Executable, Update, bindparam, case, update
from sqlmodel import Session, col, select

from runtime.database import Database
from runtime.queues import circuit_breaker, reads
from schemas.message_names import Trigger
from schemas.tables import ReadRequestRow, WebhookRow

CHUNK = 500
"""Ids per statement; SQLite takes no more than 32,766 parameters."""


@dataclass(frozen=True, slots=True)
class Covered:
    """A webhook that was stored before the claim: the read that follows is the one owed to it.

    ``is_given_up`` is one whose reads had failed too often, so that it was waited for no more.
    """

    id: int
    event_id: str
    is_given_up: bool = False


@dataclass(frozen=True, slots=True)
class ReadLease:
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
        replay_id: The replay that it is owed to, where nobody else is waiting for it.
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
    replay_id: str | None = None

    @property
    def cause(self) -> Trigger:
        """What an event tells as its trigger: the webhooks come first, whatever else was wished meanwhile.

        But for those that were given up, and that a replay has had taken up again.
        """
        return "webhook" if self.webhooks and self.replay_id is None else self.trigger

    @property
    def event_ids(self) -> list[str]:
        """The event ids of the webhooks that it covers."""
        return [webhook.event_id for webhook in self.webhooks]


def take(
    database: Database, session: Session, connection_id: str, *, token: str, lease_seconds: float
) -> ReadLease | None:
    """Claim a connection; None where nothing is owed now, somebody else is at it, or reads are paused.

    The webhooks are looked up after the lease was taken and before the read begins: all that are seen were committed
    before the read, which is what they are owed.
    """
    row = database.run(session, _lease, lease_seconds, connection=connection_id, token=token).one_or_none()
    if row is None:
        return None
    state = circuit_breaker.acquire_permission(database, session, probe_seconds=lease_seconds)
    if state == "open":
        _defer(session, connection_id)
        return None
    requested, attempts, failed_at, trigger, depth, error, replay_id = row
    covered = tuple(Covered(*found) for found in database.run(session, _pending, connection=connection_id))
    return ReadLease(
        connection_id=connection_id,
        token=token,
        generation=requested,
        attempts=attempts,
        is_dead=failed_at is not None,
        is_probe=state == "half-open",
        trigger=trigger,
        depth=depth,
        error=error,
        webhooks=covered,
        replay_id=replay_id if all(webhook.is_given_up for webhook in covered) else None,
    )


def mark_processed(database: Database, session: Session, claim: ReadLease) -> None:
    """Note that the read owed to the claim's webhooks was done."""
    for ids in _chunks(claim):
        database.run(session, _processed, ids=ids)


def mark_webhooks(session: Session, claim: ReadLease, **steps: Any) -> None:  # noqa: ANN401 - a column's value
    """Set columns of the webhooks that the claim covers."""
    for ids in _chunks(claim):
        session.connection().execute(_in_order().values(**steps), {"ids": ids})


def _chunks(claim: ReadLease) -> Iterator[list[int]]:
    ids = [webhook.id for webhook in claim.webhooks]
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))


def _lease(database: Database, seconds: float) -> Executable:
    lease = update(ReadRequestRow).where(
        col(ReadRequestRow.connection_id) == bindparam("connection"), reads.is_ready(database)
    )
    lease = lease.values(
        lease_token=bindparam("token"),
        leased_until=database.now(seconds),
        # The call has arrived; should this process die, the clock calls as soon as the lease has ended.
        woken_at=None,
        attempts=ReadRequestRow.attempts + 1,
    )
    told = (
        ReadRequestRow.requested,
        ReadRequestRow.attempts,
        ReadRequestRow.failed_at,
        ReadRequestRow.trigger,
        ReadRequestRow.depth,
        ReadRequestRow.error,
        ReadRequestRow.replay_id,
    )
    return lease.returning(*map(col, told))


def _pending(_database: Database) -> Executable:
    pending = select(WebhookRow.id, WebhookRow.event_id, col(WebhookRow.failed_at).is_not(None)).where(
        col(WebhookRow.connection_id) == bindparam("connection"),
        col(WebhookRow.processed_at).is_(None),
        col(WebhookRow.ignored_at).is_(None),
    )
    return pending.order_by(col(WebhookRow.id))


def _processed(database: Database) -> Executable:
    return _in_order().values(processed_at=database.now(), failed_at=None, error=None)


def _in_order() -> Update:
    """Return a change of the webhooks ``ids``, locked in order, as the inbox does when it counts repeats."""
    chunk = select(WebhookRow.id).where(col(WebhookRow.id).in_(bindparam("ids", expanding=True)))
    locked = chunk.order_by(col(WebhookRow.id)).with_for_update().cte("locked")
    return update(WebhookRow).where(col(WebhookRow.id).in_(select(locked.c.id)))


def release(session: Session, tokens: list[str]) -> None:
    """Give claims back whose reads will not be waited for; they cost no attempt, and the clock calls at once."""
    held = reads.lock_in_id_order(col(ReadRequestRow.lease_token).in_(tokens))
    session.exec(update(ReadRequestRow).where(col(ReadRequestRow.connection_id).in_(held)).values(_given_back()))


def take_away(session: Session, connection_id: str) -> None:
    """Take a connection's claim from whoever has it; what that read saw will be thrown away, and the clock calls again.

    The caller holds the lock of the job.
    """
    held = update(ReadRequestRow).where(
        col(ReadRequestRow.connection_id) == connection_id, col(ReadRequestRow.lease_token).is_not(None)
    )
    session.exec(held.values(_given_back()))


def _defer(session: Session, connection_id: str) -> None:
    """Give a claim back that came during a pause: still due, and called by the clock when the pause is over."""
    session.exec(update(ReadRequestRow).where(col(ReadRequestRow.connection_id) == connection_id).values(_given_back()))


def _given_back() -> dict[str, Any]:
    # A webhook that came meanwhile has given it all attempts anew.
    attempts = case((col(ReadRequestRow.attempts) > 0, ReadRequestRow.attempts - 1), else_=0)
    return {"lease_token": None, "leased_until": None, "attempts": attempts}
