"""Compare the mirror with Meld: the stored rows against the state of the simulator."""

from typing import Any

from sqlmodel import select

from runtime.database import Database
from runtime.security.lenient_json import parse_json
from runtime.security.redaction import redact
from schemas.meld.connection import TERMINAL_STATUSES, Snapshot
from schemas.tables import ConnectionRow, ReadRequestRow
from simulator.world.webhook_payloads import compact_json
from simulator.world.world import World


def differences(database: Database, world: World, *, is_notified: bool) -> list[str]:
    """Return the differences between the mirror and Meld.

    Args:
        database: The mirror.
        world: Meld's state.
        is_notified: Whether the mirror was updated by webhooks alone, without a reconcile. Then the comparison skips
            connections that no webhook named, and details for which Meld sends no webhook.
    """
    with database.read() as session:
        mirror = {row.id: row for row in session.exec(select(ConnectionRow)).all()}
        requests = {request.connection_id: request for request in session.exec(select(ReadRequestRow)).all()}
    found = []
    for connection in world.connections():
        request = requests.get(connection.id)
        if is_notified and request is None:
            continue
        is_flagged = world.quirks.deleted_gone and request is not None and request.failed_at is not None
        found += _difference(
            mirror.get(connection.id), world.truth(connection.id), is_flagged=is_flagged, is_notified=is_notified
        )
    return found


def _difference(row: ConnectionRow | None, truth: dict[str, Any], *, is_flagged: bool, is_notified: bool) -> list[str]:
    snapshot = Snapshot.from_document(redact(parse_json(compact_json(truth))))
    if row is None:
        return [] if snapshot.status in TERMINAL_STATUSES else [f"{snapshot.id} is missing"]
    if snapshot.status in TERMINAL_STATUSES:
        # Meld answers 404 without a DELETED webhook: the mirror must not change, and the failure must be visible.
        return [] if row.status == snapshot.status or is_flagged else [f"{row.id} is {row.status}: {snapshot.status}"]
    actual, expected = (
        _comparable_fields(row, is_notified=is_notified),
        _comparable_fields(snapshot, is_notified=is_notified),
    )
    return [
        f"{row.id} {name}: {actual[name]}, not {expected[name]}" for name in expected if actual[name] != expected[name]
    ]


def _comparable_fields(connection: Snapshot | ConnectionRow, *, is_notified: bool) -> dict[str, object]:
    state = {
        "status": (connection.status, connection.status_reason),
        "primary": connection.primary_duplicate_id,
        # A set, because the order may change without a webhook.
        "duplicates": set(connection.duplicate_ids),
    }
    details = {
        "institution": connection.institution_id,
        "products": list(connection.products),
        "aggregated": connection.aggregated_at,
    }
    return state if is_notified else state | details
