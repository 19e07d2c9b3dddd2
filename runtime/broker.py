"""The message broker: only ever a faster way to call a worker. Whatever it loses, the clock finds on the rows.

So messages carry ids only, and nothing is retried, delayed or kept here but by the rows.
"""

from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import urlsplit

import dramatiq
import pika
import redis
from dramatiq.broker import MessageProxy
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import DramatiqError
from dramatiq.middleware import Middleware, Retries
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from runtime.errors import OutOfReachError
from schemas.message_names import REFETCH_ACTOR

Broker = dramatiq.Broker

# Pika's handshake that takes too long is none of its AMQPErrors.
_AWAY = (DramatiqError, redis.RedisError, AMQPError, AMQPConnectorException, OSError)


def connect(url: str) -> Broker:
    """Return the broker that ``url`` names. Nothing is sent yet: a broker that is away is noticed on use.

    Args:
        url: ``memory://``, ``redis://``, ``rediss://``, ``amqp://`` or ``amqps://``.
    """
    # A worker that meets a database that is away tries again soon; after three times the clock takes over.
    middleware: list[Middleware] = [Retries(max_retries=3, min_backoff=1_000, max_backoff=10_000)]
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        return MemoryBroker(middleware=middleware)
    if scheme in {"redis", "rediss"}:
        # Dramatiq builds a client without timeouts and retries of its own; and its default chance to notice a dead
        # worker's messages is one in a thousand commands.
        client = redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=3, health_check_interval=30)
        return RedisBroker(  # type: ignore[no-untyped-call]
            client=client, middleware=middleware, namespace="meldwatch", maintenance_chance=100_000
        )
    separator = "&" if urlsplit(url).query else "?"
    timeouts = "heartbeat=60&blocked_connection_timeout=10&connection_attempts=1&socket_timeout=5&stack_timeout=5"
    # Without confirmation a message for a queue that is gone would vanish silently.
    return RabbitmqBroker(url=f"{url}{separator}{timeouts}", middleware=middleware, confirm_delivery=True)


def enqueue(broker: Broker, ids: Iterable[str], actor: str = REFETCH_ACTOR) -> None:
    """Call a worker for each id: of a connection, or of what else the actor is for.

    Raises:
        OutOfReachError: Where the broker does not answer; the clock will call.
    """
    for id_ in ids:
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=actor, actor_name=actor, args=(id_,), kwargs={}, options={}
        )
        try:
            broker.enqueue(message)
        except _AWAY as error:
            raise OutOfReachError("The broker does not answer. Is it running, and is BROKER_URL right?") from error


def ping(broker: Broker) -> None:
    """Ask the broker for a sign of life.

    Raises:
        OutOfReachError: Where it gives none.
    """
    try:
        if isinstance(broker, RedisBroker):
            broker.client.ping()
        elif isinstance(broker, RabbitmqBroker):
            # Dramatiq keeps a connection per thread; this one would be left behind with whichever thread asked.
            pika.BlockingConnection(broker.parameters).close()
    except _AWAY as error:
        raise OutOfReachError(f"The broker does not answer ({type(error).__name__}).") from error


class MemoryBroker(StubBroker):
    """Dramatiq's in-process broker, for good: it keeps no dead letters, which would pile up in memory for ever."""

    def __init__(self, middleware: list[Middleware]) -> None:
        super().__init__(middleware=middleware)
        self.dead_letters_by_queue = defaultdict(_Nothing)


class _Nothing(list[MessageProxy]):
    def append(self, _item: MessageProxy) -> None:
        """Forget the dead letter: the rows remember the work."""
