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
    """Make a refresher as a process would."""
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


def declared(broker: dramatiq.Broker, database: Database, refetcher: Refetcher, *, threads: int) -> WorkerThreads:
    """Make the threads as a process would, with all actors."""
    deliver = make_dispatcher(database)
    declare_actors(broker, refetcher, deliver)
    return WorkerThreads(broker, refetcher, deliver, threads=threads)


@pytest.fixture
def broker(memory_url: str) -> Iterator[dramatiq.Broker]:
    """The broker inside the process."""
    broker = brokers.connect(memory_url)
    yield broker
    broker.close()


def job_of(database: Database, connection_id: str = "c1") -> ReadRequestRow:
    with database.read() as session:
        return session.exec(select(ReadRequestRow).where(ReadRequestRow.connection_id == connection_id)).one()


class Hanging:
    """A read that does not end before it is told to."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.gate = threading.Event()

    def __call__(self) -> ReadOutcome:
        """Wait, then find the connection."""
        self.began.set()
        self.gate.wait()
        return found("c1", "LATE")


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """A read that hangs."""
    hanging = Hanging()
    yield hanging
    hanging.gate.set()


def test_they_work_whatever_the_broker(broker_url: str, sqlite_url: str, reader: ScriptedReader) -> None:
    """Calls that come through any broker are reads, soon after they were made."""
    database = Database(sqlite_url)
    store(database, *(body(f"c{number}") for number in range(10)))
    broker = brokers.connect(broker_url)
    refetcher = make_refetcher(database, reader)
    workers = declared(broker, database, refetcher, threads=3)
    workers.start()
    brokers.enqueue(broker, [f"c{number}" for number in range(10)])

    eventually(lambda: sum(reader.reads.values()) == 10, seconds=4)
    lives = workers.is_alive()
    workers.stop()
    broker.close()
    database.close()

    assert (lives, workers.is_alive()) == (True, False)
    assert set(reader.reads.values()) == {1}


def test_stopping_waits_for_reads_that_end(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader, hanging: Hanging
) -> None:
    """A read under way is given some time, and what it saw is written."""
    refetcher = make_refetcher(database, reader)
    workers = declared(broker, database, refetcher, threads=1)
    store(database, body("c1"))
    reader.answers["c1"] = hanging
    workers.start()
    brokers.enqueue(broker, ["c1"])
    hanging.began.wait(4)
    stopping = threading.Thread(target=workers.stop)
    stopping.start()
    hanging.gate.set()
    stopping.join()

    assert (job_of(database).completed, job_of(database).lease_token) == (1, None)


def test_stopping_gives_back_reads_that_do_not(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader, hanging: Hanging
) -> None:
    """A read that takes too long is not waited for: its job is free, and what it sees late is thrown away."""
    refetcher = make_refetcher(database, reader)
    workers = declared(broker, database, refetcher, threads=1)
    store(database, body("c1"))
    reader.answers["c1"] = hanging
    workers.start()
    brokers.enqueue(broker, ["c1"])
    hanging.began.wait(4)
    began = time.monotonic()
    workers.stop()
    seconds = time.monotonic() - began
    given_back = job_of(database)
    hanging.gate.set()
    eventually(lambda: not workers.is_alive())

    assert seconds < STOP_MILLISECONDS / 1000 + 1
    assert (given_back.lease_token, given_back.leased_until, given_back.attempts) == (None, None, 0)
    assert (job_of(database).completed, job_of(database).requested) == (0, 1)


def test_what_can_be_ended_is_ended_before_it_is_given_back(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader
) -> None:
    """Nobody else may begin with a connection's event while a handler still runs; it has some time before."""
    subscribe(database)
    emit(database, "c1")
    gate, said = threading.Event(), list[str]()

    class Running(ScriptedConsumer):
        """Runs until it is cut."""

        def send(self, *_arguments: object) -> PushResult:
            """Wait for it."""
            said.append("runs")
            gate.wait()
            said.append("ends")
            return PushResult(detail="the worker ends", is_cancelled=True)

    def cut() -> None:
        said.append(f"cut, the lane is {'held' if delivery_queues(database)[0].lease_token else 'free'}")
        gate.set()

    refetcher, deliver = make_refetcher(database, reader), make_dispatcher(database, Running())
    declare_actors(broker, refetcher, deliver)
    workers = WorkerThreads(broker, refetcher, deliver, threads=1, end_handlers=cut)
    workers.start()
    brokers.enqueue(broker, ["s1"], DELIVERY_ACTOR)
    eventually(lambda: said, message="the push under way")
    workers.stop()
    eventually(lambda: not workers.is_alive() and len(said) == 3)

    assert said == ["runs", "cut, the lane is held", "ends"]
    assert delivery_queues(database)[0].lease_token is None


class Cut(Refetcher):
    """A refresher whose database is away when the process ends."""

    def release_leases(self) -> None:
        """Fail as a database that is away does."""
        raise OutOfReachError("The database does not answer.")


def test_stopping_without_a_database_is_no_error(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader
) -> None:
    """Claims that cannot be given back are left to their leases."""
    refetcher = make_refetcher(database, reader, Cut)
    workers = declared(broker, database, refetcher, threads=1)
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
def test_a_thread_that_ended_is_noticed(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader, end: Callable[[WorkerThreads], None]
) -> None:
    """Dramatiq replaces no thread that died: the process must end and be started anew."""
    refetcher = make_refetcher(database, reader)
    workers = declared(broker, database, refetcher, threads=2)
    workers.start()
    before = workers.is_alive()
    end(workers)

    assert before
    assert eventually(lambda: not workers.is_alive(), seconds=4)
    workers.stop()


def test_an_error_of_an_actor_ends_no_thread(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader
) -> None:
    """Whatever a read raises, the next message is worked on."""

    def broken() -> ReadOutcome:
        raise RuntimeError("unforeseen")

    refetcher = make_refetcher(database, reader)
    workers = declared(broker, database, refetcher, threads=1)
    store(database, body("bad"), body("good"))
    reader.answers["bad"] = broken
    workers.start()
    brokers.enqueue(broker, ["bad", "good"])

    assert eventually(lambda: reader.reads["good"], seconds=4) == 1
    assert workers.is_alive()
    workers.stop()


def test_middleware_is_told_that_the_process_is_up(
    broker: dramatiq.Broker, database: Database, reader: ScriptedReader
) -> None:
    """Dramatiq's own command would say so; what starts threads of its own waits for it."""
    told: list[str] = []

    class Listener(Middleware):
        """Notes what it is told."""

        def after_process_boot(self, _broker: dramatiq.Broker) -> None:
            """Note the start of the process."""
            told.append("process")

        def after_worker_boot(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
            """Note the start of the worker."""
            told.append("worker")

    broker.add_middleware(Listener())
    refetcher = make_refetcher(database, reader)
    workers = declared(broker, database, refetcher, threads=1)
    workers.start()
    workers.stop()

    assert told == ["process", "worker", "worker"]
