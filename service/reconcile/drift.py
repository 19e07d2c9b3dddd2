"""Drift: the differences between a page of Meld's list and the mirror. Pure functions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from schemas.meld.connection import Snapshot
from schemas.tables import ConnectionRow

DriftKind = Literal["unseen", "changed", "missing"]
KINDS: tuple[DriftKind, ...] = ("unseen", "changed", "missing")
MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Drift:
    """Connections of one page that the mirror does not have, and those that differ in it."""

    unseen: tuple[Snapshot, ...]
    changed: tuple[str, ...]


def find_drift(
    snapshots: Sequence[Snapshot], stored: Mapping[str, ConnectionRow], began_at: datetime, *, pending: Collection[str]
) -> Drift:
    """Compare a page with the mirror.

    Args:
        snapshots: The page.
        stored: The mirror's rows of these connections.
        began_at: When the page was requested. A row that was read later than that is newer than the page.
        pending: Connections whose read is pending: that read will repair a difference.
    """
    unseen = tuple(snapshot for snapshot in snapshots if snapshot.id not in stored)
    changed = tuple(
        snapshot.id
        for snapshot in snapshots
        if snapshot.id in stored
        and snapshot.id not in pending
        and stored[snapshot.id].checked_at < began_at
        and _comparable_fields(snapshot) != _comparable_fields(stored[snapshot.id])
    )
    return Drift(unseen, changed)


def _comparable_fields(connection: Snapshot | ConnectionRow) -> tuple[object, ...]:
    """Return the fields that a list and a single read both report. A list may shorten the provider's details."""
    return (
        connection.status,
        connection.status_reason,
        connection.primary_duplicate_id,
        frozenset(connection.duplicate_ids),
        connection.customer_id,
        connection.external_customer_id,
        connection.institution_id,
        connection.institution_name,
        tuple(connection.products),
        tuple(connection.optional_products),
        tuple(connection.regions),
        connection.aggregated_at,
    )
