"""Actors (dramatiq): thin adapters that turn a broker message into a call.

Messages carry ids only; their names are in ``schemas/message_names.py``.
"""

import dramatiq

from schemas.message_names import DELIVERY_ACTOR, REFETCH_ACTOR
from workers.delivery.dispatcher import DeliveryDispatcher
from workers.refetch.refetch import Refetcher


def declare_actors(broker: dramatiq.Broker, refetcher: Refetcher, dispatcher: DeliveryDispatcher) -> None:
    """Declare every actor on the broker. Call it once per broker."""
    dramatiq.actor(actor_name=REFETCH_ACTOR, queue_name=REFETCH_ACTOR, broker=broker)(refetcher.refetch)
    dramatiq.actor(actor_name=DELIVERY_ACTOR, queue_name=DELIVERY_ACTOR, broker=broker)(dispatcher.deliver)
