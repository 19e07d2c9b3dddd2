"""Compare the mirror with the truth: the state of the simulator against the stored rows."""

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
    """Return the differences between the mirror and the truth.

    Args:
        database: The mirror.
        world: The truth.
        is_notified: Whether only webhooks can have led to the mirror, without a reconcile. Then connections that no
            webhook named are skipped, and so are details for which Meld sends no webhook.
    """
    with database.read() as session:
        mirror = {row.id: row for row in session.exec(select(ConnectionRow)).all()}
        jobs_of = {job.connection_id: job for job in session.exec(select(ReadRequestRow)).all()}
    found = []
    for one in world.connections():
        job = jobs_of.get(one.id)
        if is_notified and job is None:
            continue
        is_flagged = world.quirks.deleted_gone and job is not None and job.failed_at is not None
        found += _difference(mirror.get(one.id), world.truth(one.id), is_flagged=is_flagged, is_notified=is_notified)
    return found


def _difference(row: ConnectionRow | None, truth: dict[str, Any], *, is_flagged: bool, is_notified: bool) -> list[str]:
    snapshot = Snapshot.from_document(redact(parse_json(compact_json(truth))))
    if row is None:
        return [] if snapshot.status in TERMINAL_STATUSES else [f"{snapshot.id} is missing"]
    if snapshot.status in TERMINAL_STATUSES:
        # Meld answers 404 without a DELETED webhook: the mirror must be unchanged, and the failure visible.
        return [] if row.status == snapshot.status or is_flagged else [f"{row.id} is {row.status}: {snapshot.status}"]
    is_, should = _facts(row, is_notified=is_notified), _facts(snapshot, is_notified=is_notified)
    return [f"{row.id} {name}: {is_[name]}, not {should[name]}" for name in should if is_[name] != should[name]]


def _facts(connection: Snapshot | ConnectionRow, *, is_notified: bool) -> dict[str, object]:
    state = {
        "status": (connection.status, connection.status_reason),
        "primary": connection.primary_duplicate_id,
        # A set: its order may change without a webhook.
        "duplicates": set(connection.duplicate_ids),
    }
    details = {
        "institution": connection.institution_id,
        "products": list(connection.products),
        "aggregated": connection.aggregated_at,
    }
    return state if is_notified else state | details
