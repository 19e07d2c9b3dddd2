"""Names shared by service and workers: actors and their queues, triggers, leases. Messages carry ids only."""

from typing import Literal

REFETCH_ACTOR = "refresh"
"""The actor, and its queue, that reads a connection again: ``refresh(connection_id: str)``."""

DELIVERY_ACTOR = "deliver"
"""The actor, and its queue, that pushes the due deliveries of a subscription: ``deliver(subscription_id: str)``."""

FEED_CHANNEL = "meldwatch_feed"
"""The channel on which PostgreSQL notifies listeners of each commit of events, without a payload."""

PRUNE_LEASE = "prune"
"""The task lease of retention; its row has the time of the last run."""

Trigger = Literal["webhook", "sibling", "recheck", "reconcile", "replay", "operator", "clock"]
"""Why a read was requested; the ``cause.trigger`` of an event."""
