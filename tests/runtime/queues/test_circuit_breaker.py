from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from runtime.database import Database
from runtime.queues import circuit_breaker
from runtime.queues.circuit_breaker import Entry, OpenCircuit
from tests.service.fakes import HandClock

PROBE_SECONDS = 30
THREADS = 8


@pytest.fixture
def clock() -> HandClock:
    """The database's time."""
    return HandClock()


@pytest.fixture
def timed(database_url: str, clock: HandClock) -> Iterator[Database]:
    """A database, of each kind, whose time stands still until it is moved."""
    made = Database(database_url, clock=clock)
    yield made
    made.close()


def enter(database: Database) -> Entry:
    with database.write() as session:
        return circuit_breaker.enter(database, session, PROBE_SECONDS)


def close(database: Database, reason: str = "throttled", seconds: float = 60) -> None:
    with database.write() as session:
        circuit_breaker.close(database, session, reason=reason, detail="detail", seconds=seconds)


def open_(database: Database) -> None:
    with database.write() as session:
        circuit_breaker.open_(session)


def count(database: Database, connection_id: str, *, speaks_of_meld: bool = False) -> int:
    with database.write() as session:
        return circuit_breaker.count(session, connection_id, speaks_of_meld=speaks_of_meld)


def current(database: Database) -> OpenCircuit | None:
    with database.read() as session:
        return circuit_breaker.current(session)


def test_at_first_it_is_open(timed: Database) -> None:
    """Without a pause everybody may read."""
    assert [enter(timed), enter(timed)] == ["open", "open"]
    assert current(timed) is None


def test_a_pause_keeps_everybody_out(timed: Database, clock: HandClock) -> None:
    """While a pause is on nobody begins a read, and it can be told why, since when and until when."""
    close(timed)
    clock.move(59.9)

    assert enter(timed) == "closed"
    begin = clock.now - timedelta(seconds=59.9)
    assert current(timed) == OpenCircuit("throttled", "detail", begin, begin + timedelta(seconds=60))


def test_one_goes_ahead_to_probe(timed: Database, clock: HandClock) -> None:
    """When a pause has run out the first to ask may probe, and the others wait for the probe's answer."""
    close(timed)
    clock.move(60)

    assert [enter(timed), enter(timed)] == ["probe", "closed"]


def test_a_probe_that_never_answers_is_followed_by_another(timed: Database, clock: HandClock) -> None:
    """A prober that died keeps the others waiting for no longer than a probe may take."""
    close(timed)
    clock.move(60)
    first = enter(timed)
    clock.move(PROBE_SECONDS)

    assert [first, enter(timed), enter(timed)] == ["probe", "probe", "closed"]


def test_one_prober_among_many(database: Database) -> None:
    """Of many that ask at the same moment just one may probe."""
    close(database, seconds=0)

    with ThreadPoolExecutor(THREADS) as pool:
        entries = list(pool.map(lambda _: enter(database), range(THREADS)))

    assert sorted(entries) == ["closed"] * (THREADS - 1) + ["probe"]


def test_a_good_answer_opens_it_for_all(timed: Database, clock: HandClock) -> None:
    """A good answer ends the pause before its time, and forgets the failures."""
    count(timed, "c1")
    close(timed)
    clock.move(1)

    open_(timed)

    assert (enter(timed), current(timed)) == ("open", None)
    assert count(timed, "c1") == 1


def test_a_longer_pause_keeps_its_beginning(timed: Database, clock: HandClock) -> None:
    """A pause that goes on is told since its beginning, with the newest reason and end."""
    close(timed, "throttled")
    begin = clock.now
    clock.move(50)

    close(timed, "refused")

    assert current(timed) == OpenCircuit("refused", "detail", begin, clock.now + timedelta(seconds=60))


def test_failures_are_counted(timed: Database) -> None:
    """Failures of one connection after another add up."""
    assert [count(timed, each) for each in ("c1", "c2", "c3")] == [1, 2, 3]


def test_a_connection_that_keeps_failing_counts_once(timed: Database) -> None:
    """A connection that fails again and again speaks of itself, not of Meld."""
    assert [count(timed, each) for each in ("c1", "c1", "c1", "c2", "c2")] == [1, 1, 1, 2, 2]


def test_what_surely_speaks_of_meld_counts_always(timed: Database) -> None:
    """A failure that is Meld's own counts also where the same connection met it before."""
    assert [count(timed, "c1", speaks_of_meld=True) for _ in range(3)] == [1, 2, 3]


def test_no_failure_is_lost_among_threads(database: Database) -> None:
    """Failures that are counted at the same moment all count."""
    with ThreadPoolExecutor(THREADS) as pool:
        counts = list(pool.map(lambda each: count(database, f"c{each}"), range(THREADS)))

    assert sorted(counts) == list(range(1, THREADS + 1))
