"""Read lease: at most one worker reads a connection at a time, with a fencing token for its commit.

Any number of webhooks during a read increase the number of the read request, and cost one more read.
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

IDS_PER_STATEMENT = 500
""" SQLite takes no more than 32,766 parameters."""


@dataclass(frozen=True, slots=True)
class CoveredWebhook:
    """A webhook that was stored before the lease was acquired, so that the read covers it.

    Attributes:
        id: The key of its row.
        event_id: Meld's id of it.
        is_given_up: Whether it is ``failed``: too many reads for it had failed.
    """

    id: int
    event_id: str
    is_given_up: bool = False


@dataclass(frozen=True, slots=True)
class ReadLease:
    """The right to read one connection and to commit the result, until the lease ends.

    Attributes:
        connection_id: The connection.
        token: The fencing token; a commit with another than the newest one is refused.
        generation: The number of the request when the lease was acquired; the commit completes it.
        attempts: The number of attempts, including this one.
        is_dead: Whether the connection was given up before.
        is_probe: Whether the read is the probe of a half-open circuit breaker.
        trigger: Why the read was requested.
        depth: How many siblings the request came through.
        error: Why the previous read failed, if it did.
        webhooks: The webhooks that the read covers.
        replay_id: The replay that requested it, unless a webhook waits for it too.
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
    webhooks: tuple[CoveredWebhook, ...]
    replay_id: str | None = None

    @property
    def cause(self) -> Trigger:
        """The trigger that events name: webhooks come first, whatever else requested the read.

        Webhooks that were given up do not count if a replay requested the read.
        """
        return "webhook" if self.webhooks and self.replay_id is None else self.trigger

    @property
    def event_ids(self) -> list[str]:
        """The event ids of the webhooks that the read covers."""
        return [webhook.event_id for webhook in self.webhooks]


def acquire_lease(
    database: Database, session: Session, connection_id: str, *, token: str, lease_seconds: float
) -> ReadLease | None:
    """Acquire the lease of a connection; None if no read is due, another worker has it, or the circuit breaker is open.

    The webhooks are queried after the lease is acquired and before the read begins. So the read covers each of them.
    """
    row = database.run(session, _acquisition, lease_seconds, connection=connection_id, token=token).one_or_none()
    if row is None:
        return None
    state = circuit_breaker.acquire_permission(database, session, probe_seconds=lease_seconds)
    if state == "open":
        _release_refused(session, connection_id)
        return None
    requested, attempts, failed_at, trigger, depth, error, replay_id = row
    covered = tuple(CoveredWebhook(*found) for found in database.run(session, _pending, connection=connection_id))
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


def mark_processed(database: Database, session: Session, lease: ReadLease) -> None:
    """Mark the webhooks of the lease as processed."""
    for ids in _id_batches(lease):
        database.run(session, _processed, ids=ids)


def update_webhooks(session: Session, lease: ReadLease, **values: Any) -> None:  # noqa: ANN401 - a column's value
    """Set columns of the webhooks of the lease."""
    for ids in _id_batches(lease):
        session.connection().execute(_locked_update().values(**values), {"ids": ids})


def _id_batches(lease: ReadLease) -> Iterator[list[int]]:
    ids = [webhook.id for webhook in lease.webhooks]
    return (ids[start : start + IDS_PER_STATEMENT] for start in range(0, len(ids), IDS_PER_STATEMENT))


def _acquisition(database: Database, seconds: float) -> Executable:
    lease = update(ReadRequestRow).where(
        col(ReadRequestRow.connection_id) == bindparam("connection"), reads.is_ready(database)
    )
    lease = lease.values(
        lease_token=bindparam("token"),
        leased_until=database.now(seconds),
        # The message has arrived. If this process dies, the scheduler notifies a worker as soon as the lease has ended.
        woken_at=None,
        attempts=ReadRequestRow.attempts + 1,
    )
    columns = (
        ReadRequestRow.requested,
        ReadRequestRow.attempts,
        ReadRequestRow.failed_at,
        ReadRequestRow.trigger,
        ReadRequestRow.depth,
        ReadRequestRow.error,
        ReadRequestRow.replay_id,
    )
    return lease.returning(*map(col, columns))


def _pending(_database: Database) -> Executable:
    pending = select(WebhookRow.id, WebhookRow.event_id, col(WebhookRow.failed_at).is_not(None)).where(
        col(WebhookRow.connection_id) == bindparam("connection"),
        col(WebhookRow.processed_at).is_(None),
        col(WebhookRow.ignored_at).is_(None),
    )
    return pending.order_by(col(WebhookRow.id))


def _processed(database: Database) -> Executable:
    return _locked_update().values(processed_at=database.now(), failed_at=None, error=None)


def _locked_update() -> Update:
    """Return an update of the webhooks ``ids`` that locks them in the order of their ids, as the inbox does."""
    batch = select(WebhookRow.id).where(col(WebhookRow.id).in_(bindparam("ids", expanding=True)))
    locked = batch.order_by(col(WebhookRow.id)).with_for_update().cte("locked")
    return update(WebhookRow).where(col(WebhookRow.id).in_(select(locked.c.id)))


def release_leases(session: Session, tokens: list[str]) -> None:
    """Release leases; they cost no attempt, and the scheduler notifies other workers at once."""
    held = reads.lock_in_id_order(col(ReadRequestRow.lease_token).in_(tokens))
    session.exec(update(ReadRequestRow).where(col(ReadRequestRow.connection_id).in_(held)).values(_released_values()))


def revoke_lease(session: Session, connection_id: str) -> None:
    """Revoke the lease of a connection: the result of the read is discarded, and the scheduler notifies a worker again.

    The caller holds the row lock of the read request.
    """
    held = update(ReadRequestRow).where(
        col(ReadRequestRow.connection_id) == connection_id, col(ReadRequestRow.lease_token).is_not(None)
    )
    session.exec(held.values(_released_values()))


def _release_refused(session: Session, connection_id: str) -> None:
    """Release a lease that the circuit breaker refused; the read stays due until the circuit is closed."""
    session.exec(
        update(ReadRequestRow).where(col(ReadRequestRow.connection_id) == connection_id).values(_released_values())
    )


def _released_values() -> dict[str, Any]:
    # A webhook that arrived during the read has reset the attempts to 0.
    attempts = case((col(ReadRequestRow.attempts) > 0, ReadRequestRow.attempts - 1), else_=0)
    return {"lease_token": None, "leased_until": None, "attempts": attempts}
