import threading

from runtime import lanes
from runtime.database import Database
from tests.workers.pushlike import lanes as rows_of
from tests.workers.pushlike import subscribe


def test_what_is_raised_is_due(database: Database) -> None:
    """A lane that is not there is made; one that was emptied is due again; one that waits goes on waiting."""
    subscribe(database)
    with database.write() as session:
        lanes.raise_lanes(database, session, [("s1", "b"), ("s1", "a")])
    first = rows_of(database)
    with database.write() as session:
        lanes.raise_lanes(database, session, [("s1", "a")])

    assert [(lane.connection_id, lane.due_at is not None) for lane in first] == [("a", True), ("b", True)]
    assert rows_of(database)[0].due_at == first[0].due_at


def test_many_at_once_wait_for_nobody_for_ever(database: Database) -> None:
    """Transactions that raise the same lanes in whatever order do not block each other for good."""
    pairs = [(f"s{number % 3}", f"c{number}") for number in range(12)]

    def work(turn: int) -> None:
        for _ in range(5):
            with database.write() as session:
                lanes.raise_lanes(database, session, pairs[turn:] + pairs[:turn])

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(rows_of(database)) == 12
