"""Short ways to say what was announced, and what a group looks like."""

from simulator.herald import Announcement
from simulator.opening import Opening
from simulator.population import found_group
from simulator.vocabulary import HEALTHY, State
from simulator.world import World

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


def group(world: World, size: int, state: State = HEALTHY) -> list[str]:
    """The ids of a group, its primary last."""
    return found_group(world, size, state, Opening())


def primaries(world: World, members: list[str]) -> list[str | None]:
    """What each member calls the primary."""
    return [world.connection(member).primary_id for member in members]
