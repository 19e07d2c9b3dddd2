"""Actors: thin adapters that turn a message into a call. Messages carry ids only; names live in ``schemas/message_names.py``."""

import dramatiq

from schemas.message_names import DELIVER, REFRESH
from workers.delivery.dispatcher import DeliveryDispatcher
from workers.refetch.refetch import Refetch


def declare(broker: dramatiq.Broker, refresh: Refetch, deliver: DeliveryDispatcher) -> None:
    """Declare every actor on the broker. Once per broker."""
    dramatiq.actor(actor_name=REFRESH, queue_name=REFRESH, broker=broker)(refresh.refresh)
    dramatiq.actor(actor_name=DELIVER, queue_name=DELIVER, broker=broker)(deliver.deliver)
