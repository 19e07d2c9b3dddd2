"""Helpers for assertions on webhook events and duplicate groups."""

from simulator.activity.population import create_group
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import HEALTHY, MeldState
from simulator.world.webhook_payloads import WebhookEvent
from simulator.world.world import World

COMPLETED = "BANK_LINKING_CONNECTION_COMPLETED"
STATUS = "BANK_LINKING_CONNECTION_STATUS_CHANGE"
DELETION = "BANK_LINKING_CONNECTION_DELETED"
UPDATING = "BANK_LINKING_ACCOUNTS_UPDATING"
UPDATED = "BANK_LINKING_ACCOUNTS_UPDATED"
TRANSACTIONS = "BANK_LINKING_TRANSACTIONS_AGGREGATED"
HISTORY = "BANK_LINKING_HISTORICAL_TRANSACTIONS_AGGREGATED"


def types_and_connections(events: list[WebhookEvent]) -> list[tuple[str, str | None]]:
    """Return type and connection of each event."""
    return [(one.event_type, one.connection_id) for one in events]


def group(world: World, size: int, state: MeldState = HEALTHY) -> list[str]:
    """Create a group and return its ids, the primary last."""
    return create_group(world, size, state, NewConnection())


def primaries(world: World, members: list[str]) -> list[str | None]:
    """Return the primary id that each member shows."""
    return [world.connection(member).primary_id for member in members]
