"""Short ways to say what was announced, and what a group looks like."""

from simulator.activity.population import found_group
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import HEALTHY, MeldState
from simulator.world.webhook_payloads import Announcement
from simulator.world.world import World

COMPLETED = "BANK_LINKING_CONNECTION_COMPLETED"
STATUS = "BANK_LINKING_CONNECTION_STATUS_CHANGE"
DELETION = "BANK_LINKING_CONNECTION_DELETED"
UPDATING = "BANK_LINKING_ACCOUNTS_UPDATING"
UPDATED = "BANK_LINKING_ACCOUNTS_UPDATED"
TRANSACTIONS = "BANK_LINKING_TRANSACTIONS_AGGREGATED"
HISTORY = "BANK_LINKING_HISTORICAL_TRANSACTIONS_AGGREGATED"


def said(announcements: list[Announcement]) -> list[tuple[str, str | None]]:
    """Type and connection of each announcement."""
    return [(one.event_type, one.connection_id) for one in announcements]


def group(world: World, size: int, state: MeldState = HEALTHY) -> list[str]:
    """The ids of a group, its primary last."""
    return found_group(world, size, state, NewConnection())


def primaries(world: World, members: list[str]) -> list[str | None]:
    """What each member calls the primary."""
    return [world.connection(member).primary_id for member in members]
