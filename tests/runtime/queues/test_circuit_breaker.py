from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from runtime.database import Database
from runtime.queues import circuit_breaker
from runtime.queues.circuit_breaker import CircuitState, OpenCircuit
from tests.service.fakes import HandClock

PROBE_SECONDS = 30
THREADS = 8


@pytest.fixture
def clock() -> HandClock:
    """The database's time."""
    return HandClock()


@pytest.fixture
def timed(database_url: str, clock: HandClock) -> Iterator[Database]:
    """A database, of each kind, whose time stands still until the test moves it."""
    made = Database(database_url, clock=clock)
    yield made
    made.close()


def acquire(database: Database) -> CircuitState:
    with database.write() as session:
        return circuit_breaker.acquire_permission(database, session, PROBE_SECONDS)


def open_circuit(database: Database, reason: str = "throttled", seconds: float = 60) -> None:
    with database.write() as session:
        circuit_breaker.open_circuit(database, session, reason=reason, detail="detail", seconds=seconds)


def close_circuit(database: Database) -> None:
    with database.write() as session:
        circuit_breaker.close_circuit(session)


def record_failure(database: Database, connection_id: str, *, is_systemic: bool = False) -> int:
    with database.write() as session:
        return circuit_breaker.record_failure(session, connection_id, is_systemic=is_systemic)


def get_open_circuit(database: Database) -> OpenCircuit | None:
    with database.read() as session:
        return circuit_breaker.get_open_circuit(session)


def test_a_new_circuit_is_closed(timed: Database) -> None:
    """As long as nothing opened the circuit, every reader may read."""
    assert [acquire(timed), acquire(timed)] == ["closed", "closed"]
    assert get_open_circuit(timed) is None


def test_an_open_circuit_stops_all_readers(timed: Database, clock: HandClock) -> None:
    """While the circuit is open no read begins; its reason, beginning and end can be looked up."""
    open_circuit(timed)
    clock.move(59.9)

    assert acquire(timed) == "open"
    begin = clock.now - timedelta(seconds=59.9)
    assert get_open_circuit(timed) == OpenCircuit("throttled", "detail", begin, begin + timedelta(seconds=60))


def test_one_reader_sends_the_probe(timed: Database, clock: HandClock) -> None:
    """When the open time has passed, the first reader may probe, and the others wait for the result."""
    open_circuit(timed)
    clock.move(60)

    assert [acquire(timed), acquire(timed)] == ["half-open", "open"]


def test_a_probe_without_result_is_followed_by_another(timed: Database, clock: HandClock) -> None:
    """A reader that died with its probe delays the others for no longer than a probe may take."""
    open_circuit(timed)
    clock.move(60)
    first = acquire(timed)
    clock.move(PROBE_SECONDS)

    assert [first, acquire(timed), acquire(timed)] == ["half-open", "half-open", "open"]


def test_one_probe_among_many_readers(database: Database) -> None:
    """Of many readers that ask at the same moment exactly one may probe."""
    open_circuit(database, seconds=0)

    with ThreadPoolExecutor(THREADS) as pool:
        states = list(pool.map(lambda _: acquire(database), range(THREADS)))

    assert sorted(states) == ["half-open"] + ["open"] * (THREADS - 1)


def test_a_good_answer_closes_the_circuit_for_all(timed: Database, clock: HandClock) -> None:
    """A good answer closes the circuit before its time, and resets the count of failures."""
    record_failure(timed, "c1")
    open_circuit(timed)
    clock.move(1)

    close_circuit(timed)

    assert (acquire(timed), get_open_circuit(timed)) == ("closed", None)
    assert record_failure(timed, "c1") == 1


def test_a_circuit_that_opens_again_keeps_its_beginning(timed: Database, clock: HandClock) -> None:
    """A circuit that stays open keeps its first ``since``, and has the newest reason and end."""
    open_circuit(timed, "throttled")
    begin = clock.now
    clock.move(50)

    open_circuit(timed, "refused")

    assert get_open_circuit(timed) == OpenCircuit("refused", "detail", begin, clock.now + timedelta(seconds=60))


def test_failures_of_several_connections_add_up(timed: Database) -> None:
    """Failures of one connection after another add up."""
    assert [record_failure(timed, each) for each in ("c1", "c2", "c3")] == [1, 2, 3]


def test_repeated_failures_of_one_connection_count_once(timed: Database) -> None:
    """A connection that fails again and again may itself be the cause."""
    assert [record_failure(timed, each) for each in ("c1", "c1", "c1", "c2", "c2")] == [1, 1, 1, 2, 2]


def test_systemic_failures_always_count(timed: Database) -> None:
    """A failure that is certainly Meld's counts also where the same connection had the last one."""
    assert [record_failure(timed, "c1", is_systemic=True) for _ in range(3)] == [1, 2, 3]


def test_concurrent_failures_all_count(database: Database) -> None:
    """Failures that are recorded at the same moment all count."""
    with ThreadPoolExecutor(THREADS) as pool:
        counts = list(pool.map(lambda each: record_failure(database, f"c{each}"), range(THREADS)))

    assert sorted(counts) == list(range(1, THREADS + 1))
