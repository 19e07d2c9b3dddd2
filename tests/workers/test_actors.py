import threading
from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from runtime import broker as brokers
from runtime.clock import utcnow
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.message_names import DELIVERY_ACTOR, REFETCH_ACTOR
from tests.support.polling import eventually
from tests.support.scripted_consumer import make_dispatcher
from tests.support.scripted_meld import ScriptedReader
from tests.support.webhook_factory import body, store
from workers.actors import declare_actors
from workers.refetch.refetch import Refetcher


@pytest.fixture
def broker(memory_url: str) -> Iterator[dramatiq.Broker]:
    """The broker inside the process."""
    broker = brokers.connect(memory_url)
    yield broker
    broker.close()


@pytest.fixture
def worker(broker: dramatiq.Broker, database: Database, refetcher: Refetcher) -> Iterator[dramatiq.Worker]:
    """A dramatiq worker with the actors of the program."""
    declare_actors(broker, refetcher, make_dispatcher(database))
    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=10)
    worker.start()
    yield worker
    worker.stop()


def test_every_name_has_its_actor(broker: dramatiq.Broker, database: Database, refetcher: Refetcher) -> None:
    """Each message name of ``schemas/message_names.py`` has an actor with a queue of that name."""
    declare_actors(broker, refetcher, make_dispatcher(database))

    actors = {name: broker.get_actor(name).queue_name for name in broker.get_declared_actors()}
    assert actors == {REFETCH_ACTOR: REFETCH_ACTOR, DELIVERY_ACTOR: DELIVERY_ACTOR}


def test_a_call_is_a_read(
    broker: dramatiq.Broker, worker: dramatiq.Worker, database: Database, reader: ScriptedReader
) -> None:
    """A message with an id leads to one read of that connection; repeated messages lead to no more."""
    store(database, body("c1"))

    brokers.enqueue(broker, ["c1", "c1", "unknown"])
    broker.join(REFETCH_ACTOR)
    worker.join()

    assert dict(reader.reads) == {"c1": 1}


def test_an_error_of_the_infrastructure_is_tried_again(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader
) -> None:
    """A worker that cannot reach the database retries by itself, before the scheduler notifies it."""

    class Flaky(Refetcher):
        """Fails the first time."""

        failures = 1

        def refetch(self, connection_id: str) -> None:
            """Fail as if the database were out of reach, then work."""
            if self.failures:
                self.failures -= 1
                raise OutOfReachError("The database does not answer.")
            super().refetch(connection_id)

    numbers = iter(range(100))
    flaky = Flaky(
        database=database,
        reader=reader,
        notify_workers=lambda _ids: None,
        notify_dispatchers=lambda _ids: None,
        clock=utcnow,
        lease_seconds=30,
        new_token=lambda: f"token {next(numbers)}",
        jitter=lambda: 0.0,
        metrics=Metrics(),
        notify_feed=lambda: None,
    )
    store(database, body("c1"))
    declare_actors(broker, flaky, make_dispatcher(database))
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=10)
    worker.start()

    brokers.enqueue(broker, ["c1"])

    assert eventually(lambda: reader.reads["c1"], seconds=4) == 1
    worker.stop()


def test_nothing_is_kept_of_a_message_that_was_given_up(broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
    """The work is in the database, so failed messages need no dead letter queue."""
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise RuntimeError("always")

    dramatiq.actor(fail, actor_name="failing", queue_name=REFETCH_ACTOR, broker=broker, max_retries=0).send()
    failed.wait(4)
    broker.join(REFETCH_ACTOR)
    worker.join()

    assert isinstance(broker, StubBroker)
    assert list(broker.dead_letters) == []
