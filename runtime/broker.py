"""Message broker (in memory, Redis/Valkey, RabbitMQ): connect, enqueue a message that notifies a worker, ping.

Messages only speed up the work. The database rows are the queue: the scheduler finds the work of lost messages there.
Therefore messages carry ids only, and the broker need not retry, delay or persist anything.
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

# Pika's error for a handshake that times out is not an AMQPError.
_UNAVAILABLE_ERRORS = (DramatiqError, redis.RedisError, AMQPError, AMQPConnectorException, OSError)


def connect(url: str) -> Broker:
    """Return a client of the broker. It connects on first use.

    Args:
        url: ``memory://``, ``redis://``, ``rediss://``, ``amqp://`` or ``amqps://``.
    """
    # If the database is unavailable, the worker retries three times; after that the scheduler sends a new message.
    middleware: list[Middleware] = [Retries(max_retries=3, min_backoff=1_000, max_backoff=10_000)]
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        return MemoryBroker(middleware=middleware)
    if scheme in {"redis", "rediss"}:
        # Dramatiq's own client has neither timeouts nor health checks, and requeues the messages of dead workers in
        # only one of a thousand commands.
        client = redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=3, health_check_interval=30)
        return RedisBroker(  # type: ignore[no-untyped-call]
            client=client, middleware=middleware, namespace="meldwatch", maintenance_chance=100_000
        )
    separator = "&" if urlsplit(url).query else "?"
    timeouts = "heartbeat=60&blocked_connection_timeout=10&connection_attempts=1&socket_timeout=5&stack_timeout=5"
    # Without publisher confirms, a message to a missing queue would be lost silently.
    return RabbitmqBroker(url=f"{url}{separator}{timeouts}", middleware=middleware, confirm_delivery=True)


def enqueue(broker: Broker, ids: Iterable[str], actor: str = REFETCH_ACTOR) -> None:
    """Enqueue a message to an actor for each id, to notify a worker.

    Raises:
        OutOfReachError: If the broker does not answer. The scheduler will send the messages.
    """
    for id_ in ids:
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=actor, actor_name=actor, args=(id_,), kwargs={}, options={}
        )
        try:
            broker.enqueue(message)
        except _UNAVAILABLE_ERRORS as error:
            raise OutOfReachError("The broker does not answer. Is it running, and is BROKER_URL right?") from error


def ping(broker: Broker) -> None:
    """Check that the broker answers.

    Raises:
        OutOfReachError: If it does not.
    """
    try:
        if isinstance(broker, RedisBroker):
            broker.client.ping()
        elif isinstance(broker, RabbitmqBroker):
            # Dramatiq keeps a connection for each thread; one for the calling thread would never be closed.
            pika.BlockingConnection(broker.parameters).close()
    except _UNAVAILABLE_ERRORS as error:
        raise OutOfReachError(f"The broker does not answer ({type(error).__name__}).") from error


class MemoryBroker(StubBroker):
    """Dramatiq's in-process broker without its dead letters, which would fill the memory."""

    def __init__(self, middleware: list[Middleware]) -> None:
        super().__init__(middleware=middleware)
        self.dead_letters_by_queue = defaultdict(_DiscardingList)


class _DiscardingList(list[MessageProxy]):
    def append(self, _item: MessageProxy) -> None:
        """Discard the dead letter: the work is still in the database."""
