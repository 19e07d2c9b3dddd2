"""The names that the web side and the workers share: queues, actors, triggers, leases. Messages carry ids only."""

from typing import Literal

REFETCH_ACTOR = "refresh"
"""The actor, and its queue, that reads one connection again: ``refresh(connection_id: str)``."""

DELIVERY_ACTOR = "deliver"
"""The actor, and its queue, that pushes what is due to one subscription: ``deliver(subscription_id: str)``."""

FEED_CHANNEL = "meldwatch_feed"
"""Where PostgreSQL tells, with each commit of events, that the feed has grown; without a word about how far."""

PRUNE_LEASE = "prune"
"""The lease under which retention removes rows; its row says when that was last done."""

Trigger = Literal["webhook", "sibling", "recheck", "reconcile", "replay", "operator", "clock"]
"""Why a read was asked for; an event's ``cause.trigger``."""
