"""Actors: thin adapters that turn a message into a call. Messages carry ids only; names live in ``schemas/jobs.py``."""

import dramatiq

from schemas.jobs import DELIVER, REFRESH
from workers.deliver import Deliver
from workers.refresh import Refresh


def declare(broker: dramatiq.Broker, refresh: Refresh, deliver: Deliver) -> None:
    """Declare every actor on the broker. Once per broker."""
    dramatiq.actor(actor_name=REFRESH, queue_name=REFRESH, broker=broker)(refresh.refresh)
    dramatiq.actor(actor_name=DELIVER, queue_name=DELIVER, broker=broker)(deliver.deliver)
