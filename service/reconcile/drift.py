"""Drift: how a page of Meld's list differs from the mirror. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from schemas.meld.connection import Snapshot
from schemas.tables import ConnectionRow

Kind = Literal["unseen", "changed", "missing"]
KINDS: tuple[Kind, ...] = ("unseen", "changed", "missing")
MOST_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Drift:
    """What of one page the mirror does not have, and what it has otherwise."""

    unseen: tuple[Snapshot, ...]
    changed: tuple[str, ...]


def compare(
    snapshots: Sequence[Snapshot], stored: Mapping[str, ConnectionRow], began_at: datetime, *, owed: Collection[str]
) -> Drift:
    """Compare a page with the mirror.

    Args:
        snapshots: The page.
        stored: The mirror's rows of these connections.
        began_at: When the page was asked for: a row that was checked later is the newer of the two.
        owed: Connections whose read is owed: what differs of them is on its way.
    """
    unseen = tuple(snapshot for snapshot in snapshots if snapshot.id not in stored)
    changed = tuple(
        snapshot.id
        for snapshot in snapshots
        if snapshot.id in stored
        and snapshot.id not in owed
        and stored[snapshot.id].checked_at < began_at
        and _facts(snapshot) != _facts(stored[snapshot.id])
    )
    return Drift(unseen, changed)


def _facts(connection: Snapshot | ConnectionRow) -> tuple[object, ...]:
    """Return what a list and a read say alike; the provider's details may be shorter in a list."""
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
