"""Mirror row: the row of table `connection` after a read, or the tombstone of a deleted connection. Pure."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.meld.connection import Snapshot
from schemas.meld.webhook import DELETED
from schemas.tables import ConnectionRow
from workers.refetch.decision import MirrorState


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of a read.

    Attributes:
        snapshot: What Meld answered; None if Meld no longer has the connection, which is known to be deleted.
        began_at: When the read began.
        ended_at: When the answer was complete.
    """

    snapshot: Snapshot | None
    began_at: datetime
    ended_at: datetime


def mirror_state(row: ConnectionRow) -> MirrorState:
    """Return the part of a mirror row that decisions compare."""
    return MirrorState(
        id=row.id,
        status=row.status,
        status_reason=row.status_reason,
        primary=row.primary_duplicate_id or row.id,
        duplicates=tuple(row.duplicate_ids),
    )


def build_mirror_row(connection_id: str, account_id: str, row: ConnectionRow | None, reading: Reading) -> ConnectionRow:
    """Return the mirror row after the read, with the sequence of before.

    Args:
        connection_id: The connection.
        account_id: Its account, used if the answer does not name one.
        row: The row as stored; None at first sight.
        reading: What the read saw.
    """
    snapshot = reading.snapshot
    times = {"observed_at": reading.began_at, "checked_at": reading.began_at}
    sequence = row.sequence if row is not None else 0
    if snapshot is None:
        return _tombstone(connection_id, account_id, row, {**times, "sequence": sequence})
    mirror = ConnectionRow(
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
        reconcile_run_id=row.reconcile_run_id if row is not None else None,
        **times,
    )
    mirror.grouped_at = _grouped_at(row, mirror)
    return mirror


def _grouped_at(row: ConnectionRow | None, mirror: ConnectionRow) -> datetime | None:
    """Return when the read that last changed the group began."""
    is_same = (
        row is not None
        and row.primary_duplicate_id == mirror.primary_duplicate_id
        and set(row.duplicate_ids) == set(mirror.duplicate_ids)
    )
    return row.grouped_at if is_same and row is not None else mirror.observed_at


def _tombstone(connection_id: str, account_id: str, row: ConnectionRow | None, values: dict[str, Any]) -> ConnectionRow:
    """Return the tombstone of a connection that Meld no longer has: its last known fields, DELETED, in no group."""
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
        "grouped_at": values["observed_at"],
        "digest": hashlib.sha256(f"absent {connection_id}".encode()).hexdigest(),
    }
    return ConnectionRow(**{**empty, **known, **gone, **values})
