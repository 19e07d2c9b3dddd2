import itertools
import threading
import time
from collections.abc import Callable, Iterator

import dramatiq
import pytest
from dramatiq.middleware import Middleware
from sqlmodel import select

from meldwatch.process.worker_threads import STOP_MILLISECONDS, WorkerThreads
from runtime import broker as brokers
from runtime.clock import utcnow
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.meld.read_outcome import ReadOutcome
from schemas.message_names import DELIVERY_ACTOR
from schemas.push import PushResult
from schemas.tables import ReadRequestRow
from tests.support.polling import eventually
from tests.support.scripted_consumer import ScriptedConsumer, delivery_queues, emit, make_dispatcher, subscribe
from tests.support.scripted_meld import ScriptedReader, found
from tests.support.webhook_factory import body, store
from workers.actors import declare_actors
from workers.refetch.refetch import Refetcher


@pytest.fixture
def reader() -> ScriptedReader:
    """A Meld that answers as scripted."""
    return ScriptedReader()


def make_refetcher(database: Database, reader: ScriptedReader, kind: type[Refetcher] = Refetcher) -> Refetcher:
    """Return a refetcher with the dependencies of a process."""
    numbers = itertools.count()
    return kind(
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


def make_threads(broker: dramatiq.Broker, database: Database, refetcher: Refetcher, *, threads: int) -> WorkerThreads:
    """Return the worker threads of a process, with all actors."""
    dispatcher = make_dispatcher(database)
    declare_actors(broker, refetcher, dispatcher)
    return WorkerThreads(broker, refetcher, dispatcher, threads=threads)


@pytest.fixture
def broker(memory_url: str) -> Iterator[dramatiq.Broker]:
    """The broker inside the process."""
    broker = brokers.connect(memory_url)
    yield broker
    broker.close()


def read_request_of(database: Database, connection_id: str = "c1") -> ReadRequestRow:
    with database.read() as session:
        return session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == connection_id)).one()


class Hanging:
    """A read that does not end before its event is set."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> ReadOutcome:
        """Wait, then find the connection."""
        self.began.set()
        self.may_end.wait()
        return found("c1", "LATE")


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """A read that hangs."""
    hanging = Hanging()
    yield hanging
    hanging.may_end.set()


def test_messages_of_any_broker_cause_reads(broker_url: str, sqlite_url: str, reader: ScriptedReader) -> None:
    """Soon after they are enqueued, each connection is read once."""
    database = Database(sqlite_url)
    store(database, *(body(f"c{number}") for number in range(10)))
    broker = brokers.connect(broker_url)
    refetcher = make_refetcher(database, reader)
    workers = make_threads(broker, database, refetcher, threads=3)
    workers.start()
    brokers.enqueue(broker, [f"c{number}" for number in range(10)])

    eventually(lambda: sum(reader.reads.values()) == 10, seconds=4)
    was_alive = workers.is_alive()
    workers.stop()
    broker.close()
    database.close()

    assert (was_alive, workers.is_alive()) == (True, False)
    assert set(reader.reads.values()) == {1}


def test_stopping_waits_for_reads_under_way(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader, hanging: Hanging
) -> None:
    """They have some seconds to end, and their results are written."""
    refetcher = make_refetcher(database, reader)
    workers = make_threads(broker, database, refetcher, threads=1)
    store(database, body("c1"))
    reader.answers["c1"] = hanging
    workers.start()
    brokers.enqueue(broker, ["c1"])
    hanging.began.wait(4)
    stopping = threading.Thread(target=workers.stop)
    stopping.start()
    hanging.may_end.set()
    stopping.join()

    assert (read_request_of(database).completed, read_request_of(database).lease_token) == (1, None)


def test_stopping_releases_reads_that_do_not_end(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader, hanging: Hanging
) -> None:
    """The lease of a read that takes too long is released, and its late result is discarded."""
    refetcher = make_refetcher(database, reader)
    workers = make_threads(broker, database, refetcher, threads=1)
    store(database, body("c1"))
    reader.answers["c1"] = hanging
    workers.start()
    brokers.enqueue(broker, ["c1"])
    hanging.began.wait(4)
    began = time.monotonic()
    workers.stop()
    seconds = time.monotonic() - began
    released = read_request_of(database)
    hanging.may_end.set()
    eventually(lambda: not workers.is_alive())

    assert seconds < STOP_MILLISECONDS / 1000 + 1
    assert (released.lease_token, released.leased_until, released.attempts) == (None, None, 0)
    assert (read_request_of(database).completed, read_request_of(database).requested) == (0, 1)


def test_handlers_are_cancelled_before_their_leases_are_released(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader
) -> None:
    """No other worker may start a connection's next event while a handler still runs."""
    subscribe(database)
    emit(database, "c1")
    may_end, steps = threading.Event(), list[str]()

    class Running(ScriptedConsumer):
        """Runs until it is cancelled."""

        def send(self, *_arguments: object) -> PushResult:
            """Wait for the cancellation."""
            steps.append("runs")
            may_end.wait()
            steps.append("ends")
            return PushResult(detail="the worker ends", is_cancelled=True)

    def cancel() -> None:
        steps.append(f"cancel, the queue is {'held' if delivery_queues(database)[0].lease_token else 'free'}")
        may_end.set()

    refetcher, dispatcher = make_refetcher(database, reader), make_dispatcher(database, Running())
    declare_actors(broker, refetcher, dispatcher)
    workers = WorkerThreads(broker, refetcher, dispatcher, threads=1, end_handlers=cancel)
    workers.start()
    brokers.enqueue(broker, ["s1"], DELIVERY_ACTOR)
    eventually(lambda: steps, message="a push under way")
    workers.stop()
    eventually(lambda: not workers.is_alive() and len(steps) == 3)

    assert steps == ["runs", "cancel, the queue is held", "ends"]
    assert delivery_queues(database)[0].lease_token is None


class UnreleasedRefetcher(Refetcher):
    """A refetcher whose database is out of reach when the process ends."""

    def release_leases(self) -> None:
        """Raise the error of a database that does not answer."""
        raise OutOfReachError("The database does not answer.")


def test_stopping_without_a_database_is_no_error(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader
) -> None:
    """Leases that cannot be released expire."""
    refetcher = make_refetcher(database, reader, UnreleasedRefetcher)
    workers = make_threads(broker, database, refetcher, threads=1)
    workers.start()
    workers.stop()

    assert not workers.is_alive()


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda workers: workers._workers[0].workers[0].stop(), id="a thread that works"),
        pytest.param(
            lambda workers: next(iter(workers._workers[1].consumers.values())).stop(), id="a thread that consumes"
        ),
    ],
)
def test_a_dead_thread_is_detected(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader, end: Callable[[WorkerThreads], None]
) -> None:
    """Dramatiq does not replace a dead thread: the process must end and be restarted."""
    refetcher = make_refetcher(database, reader)
    workers = make_threads(broker, database, refetcher, threads=2)
    workers.start()
    before = workers.is_alive()
    end(workers)

    assert before
    assert eventually(lambda: not workers.is_alive(), seconds=4)
    workers.stop()


def test_an_error_of_an_actor_ends_no_thread(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader
) -> None:
    """After any error of a read, the next message is handled."""

    def broken() -> ReadOutcome:
        raise RuntimeError("unforeseen")

    refetcher = make_refetcher(database, reader)
    workers = make_threads(broker, database, refetcher, threads=1)
    store(database, body("bad"), body("good"))
    reader.answers["bad"] = broken
    workers.start()
    brokers.enqueue(broker, ["bad", "good"])

    assert eventually(lambda: reader.reads["good"], seconds=4) == 1
    assert workers.is_alive()
    workers.stop()


def test_middleware_gets_the_boot_signals(broker: dramatiq.Broker, database: Database, reader: ScriptedReader) -> None:
    """Dramatiq's own command emits them; middleware with its own threads needs them."""
    signals: list[str] = []

    class RecordingMiddleware(Middleware):
        """Records the signals of Dramatiq."""

        def after_process_boot(self, _broker: dramatiq.Broker) -> None:
            """Record the start of the process."""
            signals.append("process")

        def after_worker_boot(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
            """Record the start of a worker."""
            signals.append("worker")

    broker.add_middleware(RecordingMiddleware())
    refetcher = make_refetcher(database, reader)
    workers = make_threads(broker, database, refetcher, threads=1)
    workers.start()
    workers.stop()

    assert signals == ["process", "worker", "worker"]
