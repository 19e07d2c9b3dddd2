"""Apply: one commit that makes the mirror say what the read saw, and tells what that changed.

Behind the fence, the mirror's row is only ever written by the holder of the newest claim; so an older read cannot
overwrite a newer one, and what is decided here cannot be outdated by the time it is committed.
"""

import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import case, exists, or_, update
from sqlmodel import Session, col, select

from runtime import gate, jobs
from runtime.database import Database
from schemas import api, events
from schemas.meld import Snapshot
from schemas.tables import Connection, Counter, Event, Job, Observation, Webhook
from schemas.webhook import DELETED
from workers.claim import Claim
from workers.decide import Decision, State, decide, named
from workers.follow import RECHECK_SECONDS, follow

EVENT_NAMESPACE = uuid.UUID("6d656c64-7761-5463-8000-636f6e6e6563")
"""Event ids are made in it; it must never change."""

HINT_SECONDS = sum(RECHECK_SECONDS) + 180
"""How long a hint is held against reads: as long as its rechecks take, with some room."""

CHUNK = 500
"""Ids per statement; SQLite takes no more than 32,766 parameters."""


class OutrunError(Exception):
    """A newer claim on the connection exists; this read must be thrown away."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a read saw and when: a snapshot, or None where Meld has the connection no more and that is believed."""

    snapshot: Snapshot | None
    began_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Applied:
    """What was committed: the connections to call workers for, and the types of the events emitted."""

    calls: tuple[str, ...] = ()
    types: tuple[str, ...] = field(default=())


def believes_absence(session: Session, connection_id: str) -> bool:
    """Return whether a 404 means that the connection was deleted: a webhook or an earlier read said so."""
    said = exists().where(col(Webhook.connection_id) == connection_id, col(Webhook.hint_status) == DELETED)
    seen = exists().where(col(Connection.id) == connection_id, col(Connection.status) == DELETED)
    return bool(session.exec(select(or_(said, seen))).one())


def apply(database: Database, session: Session, claim: Claim, reading: Reading) -> Applied:
    """Write down what was read, and everything that follows from it.

    Raises:
        OutrunError: Where the claim is no longer the newest; nothing is written then.
    """
    row = session.get(Connection, claim.connection_id)
    before = state_of(row) if row is not None else None
    account_id = _account(session, claim, row)
    mirror = _mirror(claim.connection_id, account_id, row, reading)
    after = state_of(mirror)
    others = named(before, after)
    if others:
        jobs.lock(database, session, {claim.connection_id, *others})
    is_owed = _complete(session, claim)
    hint = _newest_hint(database, session, claim)
    group = {sibling.id: state_of(sibling) for sibling in _siblings(session, others)}
    decision = decide(before, after, group, hint)
    is_new = row is None or row.digest != mirror.digest
    types: tuple[str, ...] = ()
    _mark_processed(database, session, claim)
    calls = follow(database, session, claim, decision, is_owed=is_owed)
    gate.open_(session)
    if is_new:
        observation_id = _observe(session, claim, reading, mirror)
        types = _tell(session, claim, reading, mirror, decision=decision, observation_id=observation_id)
        session.merge(mirror)
    else:
        seen = update(Connection).where(col(Connection.id) == claim.connection_id)
        session.exec(seen.values(checked_at=reading.began_at))
    return Applied(tuple(calls), types)


def dismiss(session: Session, claim: Claim) -> None:
    """Settle a claim that only a sibling's list had led to, where Meld does not have the connection: nothing is owed.

    Raises:
        OutrunError: Where the claim is no longer the newest.
    """
    _complete(session, claim)


def is_only_listed(session: Session, claim: Claim) -> bool:
    """Return whether a connection is known from the lists of others alone: no webhook named it, no read found it."""
    is_followed = claim.trigger in {"sibling", "recheck"} and not claim.webhooks
    return is_followed and session.get(Connection, claim.connection_id) is None


def state_of(row: Connection) -> State:
    """Return what decisions look at of a connection's row."""
    return State(
        id=row.id,
        status=row.status,
        status_reason=row.status_reason,
        primary=row.primary_duplicate_id or row.id,
        duplicates=tuple(row.duplicate_ids),
    )


def _account(session: Session, claim: Claim, row: Connection | None) -> str:
    """Return the account as the mirror knows it, or as the webhooks say: for an answer that does not name it."""
    if row is not None:
        return row.account_id
    said = select(Webhook.account_id).where(
        Webhook.connection_id == claim.connection_id, col(Webhook.account_id).is_not(None)
    )
    return session.exec(said.order_by(col(Webhook.id).desc()).limit(1)).first() or ""


def _mirror(connection_id: str, account_id: str, row: Connection | None, reading: Reading) -> Connection:
    """Return the mirror's row as it is after the read; its sequence still as before."""
    snapshot = reading.snapshot
    times = {"observed_at": reading.began_at, "checked_at": reading.began_at}
    sequence = row.sequence if row is not None else 0
    if snapshot is None:
        return _tombstone(connection_id, account_id, row, {**times, "sequence": sequence})
    return Connection(
        id=connection_id,
        account_id=snapshot.account_id or account_id,
        customer_id=snapshot.customer_id,
        external_customer_id=snapshot.external_customer_id,
        institution_id=snapshot.institution_id,
        institution_name=snapshot.institution_name,
        status=snapshot.status,
        status_reason=snapshot.status_reason,
        primary_duplicate_id=snapshot.primary_duplicate_id,
        duplicate_ids=list(snapshot.duplicate_ids),
        products=list(snapshot.products),
        optional_products=list(snapshot.optional_products),
        regions=list(snapshot.regions),
        service_provider=snapshot.service_provider,
        service_provider_details=snapshot.service_provider_details,
        created_at=snapshot.created_at,
        aggregated_at=snapshot.aggregated_at,
        sequence=sequence,
        digest=snapshot.digest,
        document=snapshot.document,
        **times,
    )


def _tombstone(connection_id: str, account_id: str, row: Connection | None, values: dict[str, Any]) -> Connection:
    """Return the row of a connection that Meld has no more: what was last known of it, DELETED and in no group."""
    known = row.model_dump() if row is not None else {"id": connection_id, "account_id": account_id}
    empty: dict[str, Any] = {
        "products": [],
        "optional_products": [],
        "regions": [],
        "service_provider_details": {},
        "document": {},
    }
    is_known_deleted = row is not None and row.status == DELETED
    gone: dict[str, Any] = {
        "status": DELETED,
        "status_reason": row.status_reason if row is not None and is_known_deleted else None,
        "primary_duplicate_id": None,
        "duplicate_ids": [],
        "digest": hashlib.sha256(f"absent {connection_id}".encode()).hexdigest(),
    }
    return Connection(**{**empty, **known, **gone, **values})


def _complete(session: Session, claim: Claim) -> bool:
    """Pass the fence: complete the claimed generation. Return whether a later one is owed already."""
    is_owed = col(Job.requested) > claim.generation
    fence = (
        update(Job)
        .where(col(Job.connection_id) == claim.connection_id, col(Job.lease_token) == claim.token)
        .values(
            completed=claim.generation,
            due_at=case((is_owed, Job.due_at), else_=None),
            lease_token=None,
            leased_until=None,
            attempts=0,
            failed_at=None,
            error=None,
        )
        .returning(is_owed)
    )
    row = session.exec(fence).one_or_none()
    if row is None:
        raise OutrunError(claim.connection_id)
    return bool(row[0])


def _newest_hint(database: Database, session: Session, claim: Claim) -> str | None:
    """Return the status that the newest hint announced, if it is recent or one that this read covers.

    Newest by when Meld says that it happened: an old hint that comes late says nothing about now.
    """
    newest = session.exec(
        select(Webhook.id, Webhook.hint_status, col(Webhook.received_at) > database.now(-HINT_SECONDS))
        .where(Webhook.connection_id == claim.connection_id, col(Webhook.hint_status).is_not(None))
        .order_by(col(Webhook.occurred_at).desc().nulls_last(), col(Webhook.id).desc())
        .limit(1)
    ).first()
    if newest is None:
        return None
    id_, status, is_recent = newest
    return status if is_recent or any(webhook.id == id_ for webhook in claim.webhooks) else None


def _siblings(session: Session, others: frozenset[str]) -> list[Connection]:
    return list(session.exec(select(Connection).where(col(Connection.id).in_(others))).all()) if others else []


def _mark_processed(database: Database, session: Session, claim: Claim) -> None:
    ids = [webhook.id for webhook in claim.webhooks]
    for start in range(0, len(ids), CHUNK):
        # Locked in order, as the inbox does when it counts repeats.
        chunk = select(Webhook.id).where(col(Webhook.id).in_(ids[start : start + CHUNK]))
        locked = chunk.order_by(col(Webhook.id)).with_for_update().cte("locked")
        mark = update(Webhook).where(col(Webhook.id).in_(select(locked.c.id)))
        session.exec(mark.values(processed_at=database.now(), failed_at=None, error=None))


def _observe(session: Session, claim: Claim, reading: Reading, mirror: Connection) -> int:
    observation = Observation(
        connection_id=claim.connection_id,
        generation=claim.generation,
        trigger="webhook" if claim.webhooks else claim.trigger,
        webhook_event_ids=[webhook.event_id for webhook in claim.webhooks],
        began_at=reading.began_at,
        ended_at=reading.ended_at,
        found=reading.snapshot is not None,
        digest=mirror.digest,
        document=mirror.document if reading.snapshot is not None else {},
    )
    session.add(observation)
    session.flush()
    assert observation.id is not None
    return observation.id


def _tell(
    session: Session, claim: Claim, reading: Reading, mirror: Connection, *, decision: Decision, observation_id: int
) -> tuple[str, ...]:
    """Append the changes to the feed. The counter is taken last, so that positions grow in commit order."""
    if not decision.changes:
        return ()
    cause = events.Cause(
        trigger="webhook" if claim.webhooks else claim.trigger,
        webhook_event_ids=[webhook.event_id for webhook in claim.webhooks],
        observation_id=observation_id,
    )
    key = f"{mirror.id}\n{reading.began_at.isoformat()}\n{mirror.digest}"
    count = len(decision.changes)
    feed = update(Counter).where(col(Counter.name) == "feed").values(value=Counter.value + count)
    last: int = session.exec(feed.returning(col(Counter.value))).scalar_one()
    for position, change in enumerate(decision.changes, start=last - count + 1):
        mirror.sequence += 1
        data = events.DATA[change.type](**dict(change), connection=api.Connection.from_row(mirror), cause=cause)
        session.add(
            Event(
                position=position,
                id=str(uuid.uuid5(EVENT_NAMESPACE, f"{key}\n{change.type}")),
                connection_id=mirror.id,
                sequence=mirror.sequence,
                type=change.type,
                account_id=mirror.account_id,
                time=reading.ended_at,
                observation_id=observation_id,
                data=data.model_dump(mode="json"),
            )
        )
    return tuple(change.type for change in decision.changes)
