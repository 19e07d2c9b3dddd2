import hashlib
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import update
from sqlmodel import col, select

from runtime.clock import utcnow
from runtime.database import Database
from runtime.metrics import Metrics
from runtime.queues import reads
from runtime.security.encryption import Encryption
from schemas.meld.read_outcome import ReadOutcome, Unavailable
from schemas.meld.webhook import Hint
from schemas.tables import CircuitBreakerRow, ReadRequestRow, WebhookRow
from service.ingest.inbox import MAX_BATCH_SIZE
from service.ingest.payload import webhook_event_id
from service.ingest.webhook_insert import PostgresWebhookTable, SqliteWebhookTable, make_webhook_table
from tests.support.encryption_keys import ENCRYPTION, OLD
from tests.support.polling import eventually
from tests.support.scripted_meld import found
from tests.support.webhook_factory import body, decrypted_body, received_webhook, store
from workers.refetch.lease import acquire_lease
from workers.refetch.refetch import Refetcher
from workers.refetch.reschedule import reschedule

Raiser = Callable[[Database, str], list[str]]


def webhooks(database: Database) -> list[WebhookRow]:
    with database.read() as session:
        return list(session.exec(select(WebhookRow).order_by(col(WebhookRow.id))).all())


def all_jobs(database: Database) -> dict[str, ReadRequestRow]:
    with database.read() as session:
        return {job.connection_id: job for job in session.exec(select(ReadRequestRow)).all()}


def together(*works: Callable[[], object]) -> list[BaseException]:
    """Run functions concurrently in threads; return their exceptions."""
    errors: list[BaseException] = []
    ready = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        ready.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - every error is a result
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_each_database_has_its_table(database: Database) -> None:
    """Each database dialect has its own table."""
    expected = PostgresWebhookTable if database.is_postgres else SqliteWebhookTable

    assert type(make_webhook_table(database, ENCRYPTION)) is expected


def test_all_columns_of_a_webhook_are_stored(database: Database) -> None:
    """Every column has the value of the webhook or its hint."""
    raw = b'{"eventType":"T","eventId":"e1","accountId":"a","timestamp":"2026-01-02T03:04:05.6Z","payload":{}}'
    item = replace(received_webhook(raw), headers={"meld-signature": "s\u00e9", "user-agent": "x"})
    item = replace(item, hint=replace(item.hint, connection_id="c1", status="ACTIVE"))

    with closing(make_webhook_table(database, ENCRYPTION)) as table:
        called = table.insert([item])

    (row,) = webhooks(database)
    assert called == ["c1"]
    assert (row.event_id, row.type, row.account_id, row.connection_id) == ("e1", "T", "a", "c1")
    assert (row.hint_status, row.occurred_at) == ("ACTIVE", datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC))
    assert (row.signed_at, row.url, row.headers, decrypted_body(row)) == (item.signed_at, item.url, item.headers, raw)
    assert (row.deliveries, row.processed_at, row.ignored_at, row.failed_at) == (1, None, None, None)
    assert row.received_at == row.delivered_at


def test_a_webhook_that_names_no_connection_is_ignored(database: Database) -> None:
    """It is stored, and no read is requested."""
    called = store(database, body(None), b"junk")

    assert called == []
    assert [row.ignored_at is not None for row in webhooks(database)] == [True, True]
    assert all_jobs(database) == {}


def test_a_body_without_an_event_id_is_identified_by_its_digest(database: Database) -> None:
    """The same body is a repeat, another body is not."""
    store(database, b"junk", b"junk", b"other junk")
    store(database, b"junk")

    rows = {decrypted_body(row): (row.event_id, row.deliveries) for row in webhooks(database)}
    assert rows == {
        b"junk": ("sha256:" + hashlib.sha256(b"junk").hexdigest(), 3),
        b"other junk": (webhook_event_id(received_webhook(b"other junk")), 1),
    }


def test_a_body_is_encrypted_and_identified_by_its_clear_text(database: Database) -> None:
    """The row has the key's name. With another key, or without one, the same body is still a repeat."""
    for encryption in (ENCRYPTION, Encryption([OLD]), Encryption([])):
        with closing(make_webhook_table(database, encryption)) as table:
            table.insert([received_webhook(b"junk")])

    (row,) = webhooks(database)
    assert (row.event_id, row.deliveries) == ("sha256:" + hashlib.sha256(b"junk").hexdigest(), 3)
    assert (row.encrypted_with, decrypted_body(row)) == (ENCRYPTION.key_name, b"junk")


def test_without_a_key_a_body_is_stored_in_clear(database: Database) -> None:
    """The row says so, and stays readable after a key is set."""
    with closing(make_webhook_table(database, Encryption([]))) as table:
        table.insert([received_webhook(b"junk")])

    (row,) = webhooks(database)
    assert (row.body, row.encrypted_with, decrypted_body(row)) == (b"junk", None, b"junk")


def test_nothing_of_a_body_is_found_in_the_database(database: Database, database_url: str) -> None:
    """Neither in SQLite's files, including the WAL, nor in any column of PostgreSQL's table."""
    words = [f"marker-{number}-of-the-bank" for number in range(50)]
    bodies = [body(f"c{number}", institutionName=word) for number, word in enumerate(words)]
    huge = body("c0", institutionName=words[0], rest="marker-of-a-page " * 50_000)
    store(database, *bodies, huge, b"marker-of-junk")
    store(database, *bodies, b"marker-of-junk")

    assert {decrypted_body(row) for row in webhooks(database)} == {*bodies, huge, b"marker-of-junk"}
    with database.read() as session:
        if database.is_postgres:
            as_text = "SELECT webhook::text || encode(body, 'escape') FROM webhook"
            stored = [row[0].encode() for row in session.connection().exec_driver_sql(as_text)]
        else:
            # While the database is open its log is there, too.
            stored = [path.read_bytes() for path in Path(database_url.removeprefix("sqlite:///")).parent.glob("*.db*")]
    assert sum(map(len, stored)) > len(huge)
    assert any(b"BANK_LINKING_CONNECTION_STATUS_CHANGE" in each for each in stored)
    assert not any(b"marker-" in each for each in stored)


def test_a_repeat_in_the_same_batch_is_counted(database: Database) -> None:
    """Two deliveries of one event in one batch are one webhook with two deliveries, and one read request."""
    called = store(database, *[body("c1", event_id="e1")] * 2, body("c1", event_id="e2"), body("c2", event_id="e1"))

    assert "c1" in called
    assert {row.event_id: row.deliveries for row in webhooks(database)} == {"e1": 3, "e2": 1}
    assert {job.requested for job in all_jobs(database).values()} == {1}


def test_several_events_of_a_connection_in_one_batch_are_one_read_request(database: Database) -> None:
    """One read covers them all."""
    called = store(database, *(body("c1") for _ in range(7)))

    assert (called, all_jobs(database)["c1"].requested, len(webhooks(database))) == (["c1"], 1, 7)


def test_the_largest_batch_is_stored(database: Database) -> None:
    """Five hundred new events of five hundred connections, and five hundred repeats beside them."""
    bodies = [body(f"c{number}", event_id=f"e{number}") for number in range(MAX_BATCH_SIZE)]
    random.Random(1).shuffle(bodies)

    called = store(database, *bodies)
    again = store(database, *bodies)

    assert (len(called), again) == (MAX_BATCH_SIZE, [])
    assert {row.deliveries for row in webhooks(database)} == {2}
    assert {job.requested for job in all_jobs(database).values()} == {1}


def test_similar_ids_are_different(database: Database) -> None:
    """Ids that a collation considers equal are different."""
    ids = ["a", "A", "á", "a\u0301", "ａ", "ß", "ss", "a ", " a", "%", "_", "'", "🔑", "１"]  # noqa: RUF001 - on purpose

    store(database, *(body(id_, event_id=id_) for id_ in ids))

    assert {row.event_id for row in webhooks(database)} == set(ids)
    assert set(all_jobs(database)) == set(ids)


def test_a_failed_batch_leaves_nothing(database: Database) -> None:
    """If one row cannot be stored, no row, count or read request of its batch is stored."""
    store(database, body("c1", event_id="e1"))
    bad = replace(received_webhook(body("c9")), hint=Hint(event_id="bad", type="\ud800", connection_id="c9"))

    with closing(make_webhook_table(database, ENCRYPTION)) as table, pytest.raises(UnicodeEncodeError):
        table.insert([received_webhook(body("c1", event_id="e1")), received_webhook(body("c2")), bad])

    assert [(row.event_id, row.deliveries) for row in webhooks(database)] == [("e1", 1)]
    assert {id_: job.requested for id_, job in all_jobs(database).items()} == {"c1": 1}


@pytest.mark.parametrize("writers", [2, 8])
def test_concurrent_writers_request_one_read_for_each_event(database_url: str, writers: int) -> None:
    """With many concurrent writers an event requests one read, and every repeat is counted."""
    events = [(f"e{number}", f"c{number % 7}") for number in range(60)]
    databases = [Database(database_url) for _ in range(writers)]

    def write(number: int) -> None:
        mine = random.Random(number).sample(events, len(events))
        with closing(make_webhook_table(databases[number], ENCRYPTION)) as table:
            for start in range(0, len(mine), 10):
                chunk = mine[start : start + 10]
                table.insert(
                    [received_webhook(body(connection_id, event_id=event_id)) for event_id, connection_id in chunk]
                )

    errors = together(*[lambda number=number: write(number) for number in range(writers)])

    rows = webhooks(databases[0])
    requested = {id_: job.requested for id_, job in all_jobs(databases[0]).items()}
    raised = Counter(connection_id for _, connection_id in events)
    for each in databases:
        each.close()
    assert errors == []
    assert {row.event_id: row.deliveries for row in rows} == {event_id: writers for event_id, _ in events}
    # A batch raises a connection once, for however many events that are new with it.
    assert all(1 <= requested[id_] <= raised[id_] for id_ in raised)


@pytest.mark.parametrize("writers", [8])
def test_one_event_through_many_writers_is_one_read_request(database_url: str, writers: int) -> None:
    """Eight writers store the same new event at the same time, twenty times: one webhook, one read request each."""
    databases = [Database(database_url) for _ in range(writers)]
    called: list[str] = []
    ready = threading.Barrier(writers)

    def write(database: Database) -> None:
        with closing(make_webhook_table(database, ENCRYPTION)) as table:
            for number in range(20):
                ready.wait()
                called.extend(table.insert([received_webhook(body(f"c{number}", event_id=f"e{number}"))]))

    errors = together(*[lambda each=each: write(each) for each in databases])

    requested = {job.requested for job in all_jobs(databases[0]).values()}
    repeated = {row.deliveries for row in webhooks(databases[0])}
    for each in databases:
        each.close()
    assert errors == []
    assert (requested, repeated, len(called)) == ({1}, {writers}, 20)


# Who is called: the three ways in which a webhook raises a job mean the same.


def through_inbox(database: Database, connection_id: str) -> list[str]:
    return store(database, body(connection_id))


def through_raise(database: Database, connection_id: str) -> list[str]:
    with database.write() as session:
        return reads.request_reads(database, session, [connection_id], "webhook")


@pytest.fixture(params=[through_inbox, through_raise], ids=["inbox", "raise_jobs"])
def raiser(request: pytest.FixtureRequest) -> Raiser:
    """One way to request a read for a webhook."""
    return request.param


IDLE: dict[str, Any] = {"requested": 3, "completed": 3, "trigger": "operator", "attempts": 0, "rechecks": 0, "depth": 0}
REPLAYED: dict[str, Any] = {"trigger": "replay", "replay_id": "r1"}
OWED = {**IDLE, "requested": 4, "due_at": -1.0}
JUST_NOW, LONG_AGO, SOON = -1.0, -reads.RENOTIFY_AFTER_SECONDS - 5.0, 20.0

CASES = [
    pytest.param(None, True, id="never seen"),
    pytest.param(IDLE, True, id="idle"),
    pytest.param({**IDLE, "woken_at": LONG_AGO}, True, id="idle, called long ago"),
    pytest.param({**IDLE, "woken_at": JUST_NOW}, False, id="idle, called just now"),
    pytest.param(OWED, True, id="owed, never called"),
    pytest.param({**OWED, "woken_at": JUST_NOW}, False, id="owed, a call on its way"),
    pytest.param({**OWED, "woken_at": LONG_AGO}, True, id="owed, the call was lost"),
    pytest.param({**OWED, "lease_token": "t", "leased_until": SOON}, False, id="somebody at work"),
    pytest.param({**OWED, "lease_token": "t", "leased_until": SOON, "woken_at": JUST_NOW}, False, id="both"),
    pytest.param(
        {**OWED, "lease_token": "t", "leased_until": SOON, "woken_at": LONG_AGO}, False, id="at work for long"
    ),
    pytest.param({**OWED, "lease_token": "t", "leased_until": JUST_NOW}, True, id="somebody died"),
    pytest.param(
        {**OWED, "lease_token": "t", "leased_until": JUST_NOW, "woken_at": JUST_NOW}, False, id="died, called"
    ),
    pytest.param({**OWED, "due_at": 300.0, "attempts": 9}, True, id="backing off"),
    pytest.param({**OWED, "due_at": 300.0, "trigger": "recheck", "rechecks": 3}, True, id="waiting for a recheck"),
    pytest.param({**OWED, "due_at": None, "failed_at": -60.0, "attempts": 12}, True, id="given up"),
    pytest.param({**OWED, "due_at": 900.0, "failed_at": -60.0, "attempts": 12}, True, id="given up, may heal"),
    pytest.param({**OWED, "due_at": -600.0, "woken_at": LONG_AGO}, True, id="overdue"),
    pytest.param({**OWED, "depth": 2, "trigger": "sibling"}, True, id="owed to a sibling"),
    pytest.param({**OWED, **REPLAYED}, True, id="owed to a replay"),
    pytest.param({**IDLE, **REPLAYED}, True, id="idle, replayed"),
]


def put_job(database: Database, row: Mapping[str, Any]) -> None:
    """Store a read request with times relative to now."""
    times = ("due_at", "woken_at", "leased_until", "failed_at")
    values = {
        name: database.now(value) if name in times and value is not None else value for name, value in row.items()
    }
    with database.write() as session:
        session.exec(
            database.insert(ReadRequestRow).values(connection_id="c1", requested_at=database.now(-100), **values)
        )


def seconds_from_now(moment: datetime | None) -> float | None:
    return None if moment is None else (moment - utcnow()).total_seconds()


@pytest.mark.parametrize(("row", "is_called"), CASES)
def test_a_worker_is_notified_if_there_is_no_lease_and_no_message_on_its_way(
    database: Database,
    raiser: Raiser,
    row: Mapping[str, Any] | None,
    is_called: bool,  # noqa: FBT001 - a column
) -> None:
    """Both webhook tables and ``request_reads`` agree on notifications and on the resulting row."""
    if row is not None:
        put_job(database, row)
    before = {**IDLE, "requested": 0, "completed": 0, **(row or {})}

    called = raiser(database, "c1")

    job = all_jobs(database)["c1"]
    assert called == (["c1"] if is_called else [])
    assert (job.requested, job.completed, job.trigger) == (before["requested"] + 1, before["completed"], "webhook")
    assert (job.attempts, job.rechecks, job.depth, job.failed_at, job.replay_id) == (0, 0, 0, None, None)
    assert job.lease_token == before.get("lease_token")
    assert seconds_from_now(job.leased_until) == pytest.approx(before.get("leased_until"), abs=3)
    assert seconds_from_now(job.requested_at) == pytest.approx(0, abs=3)
    assert seconds_from_now(job.woken_at) == pytest.approx(0 if is_called else before.get("woken_at"), abs=3)
    assert seconds_from_now(job.due_at) == pytest.approx(min(before.get("due_at") or 0, 0), abs=3)


def test_a_burst_notifies_once(database: Database, raiser: Raiser) -> None:
    """Ten webhooks before the worker starts are one notification."""
    called = [raiser(database, "c1") for _ in range(10)]

    assert called == [["c1"]] + [[]] * 9
    assert all_jobs(database)["c1"].requested == 10


# Locks: no two of all that write may wait for each other.


def is_waiting(url: str, count: int) -> bool:
    """Return whether this many sessions wait for a lock."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return row is not None and row[0] >= count


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    """A PostgreSQL with many connections."""
    database = Database(postgres_url, pool_size=30)
    yield database
    database.close()


def test_creating_a_read_request_does_not_deadlock_with_the_inbox(postgres: Database, postgres_url: str) -> None:
    """A worker that locks an old and a new read request, and an inbox that requests both, do not deadlock."""
    store(postgres, body("a"))

    def lock() -> None:
        with postgres.write() as session:
            reads.lock_requests(postgres, session, ["a", "b"])

    def let_go() -> None:
        eventually(lambda: is_waiting(postgres_url, 1))
        locking.start()
        eventually(lambda: is_waiting(postgres_url, 2))
        holder.rollback()

    errors: list[BaseException] = []
    locking = threading.Thread(target=lambda: errors.extend(together(lock)))
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT 1 FROM read_request WHERE connection_id = 'a' FOR UPDATE")
        errors += together(lambda: store(postgres, body("a"), body("b")), let_go)
        locking.join()

    assert errors == []
    assert set(all_jobs(postgres)) == {"a", "b"}


def test_a_failure_does_not_deadlock_with_counted_repeats(postgres: Database, postgres_url: str) -> None:
    """A successful read, a failed one, and an inbox that counts repeats of both do not deadlock."""
    store(postgres, body("dead", event_id="e1"), body("good", event_id="e2"))
    store(postgres, body("good", event_id="e3"))
    with postgres.write() as session:
        session.exec(update(CircuitBreakerRow).values(failures=1, connection_id="another"))
        session.exec(update(ReadRequestRow).where(col(ReadRequestRow.connection_id) == "dead").values(attempts=11))
        claim = acquire_lease(postgres, session, "dead", token="t", lease_seconds=30)
    assert claim is not None

    def give_up() -> None:
        with postgres.write() as session:
            reschedule(postgres, session, claim, Unavailable("Meld answered 500"), jitter=0)

    def succeed() -> None:
        eventually(lambda: is_waiting(postgres_url, 1))
        refresher(postgres, found).refetch("good")

    def count() -> None:
        eventually(lambda: is_waiting(postgres_url, 2))
        counter.execute("SELECT 1 FROM webhook WHERE event_id = 'e3' FOR UPDATE")
        counter.rollback()

    with psycopg.connect(postgres_url) as counter:
        # What the inbox does when it counts repeats: it locks webhooks in the order of their ids.
        counter.execute("SELECT 1 FROM webhook WHERE event_id = 'e1' FOR UPDATE")
        errors = together(give_up, succeed, count)

    assert errors == []


def refresher(database: Database, read: Callable[[str], ReadOutcome]) -> Refetcher:
    class Reader:
        def read(self, connection_id: str) -> ReadOutcome:
            return read(connection_id)

    numbers = itertools.count()
    return Refetcher(
        database=database,
        reader=Reader(),
        notify_workers=lambda _ids: None,
        notify_dispatchers=lambda _ids: None,
        clock=utcnow,
        lease_seconds=30,
        new_token=lambda: f"token {next(numbers)}",
        jitter=lambda: 0.0,
        metrics=Metrics(),
        notify_feed=lambda: None,
    )


class Crowd:
    """Inboxes, workers and operators that use the same connections concurrently on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._frontier = itertools.count()
        self._chance = random.Random(7)
        self._refetcher = refresher(database, self._read)
        self.is_over = threading.Event()

    def write(self, seed: int, batches: int) -> None:
        """Store batches of new and repeated events, in random order."""
        chance = random.Random(seed)
        with closing(make_webhook_table(self._database, ENCRYPTION)) as table:
            for _ in range(batches):
                raws = [body(id_, event_id=f"e{chance.randrange(50)}-{id_}") for id_ in self._some(chance)]
                raws += chance.sample(raws, min(2, len(raws)))
                chance.shuffle(raws)
                table.insert([received_webhook(raw) for raw in raws])

    def work(self, seed: int) -> None:
        """Read connections, whose groups change each time."""
        chance = random.Random(seed)
        while not self.is_over.is_set():
            for id_ in self._some(chance):
                self._refetcher.refetch(id_)

    def ask(self, seed: int) -> None:
        """Request reads, and clear notifications."""
        chance = random.Random(seed)
        while not self.is_over.is_set():
            with self._database.write() as session:
                reads.request_reads(self._database, session, self._some(chance), "operator")
            with self._database.write() as session:
                reads.clear_notified(session, self._some(chance))

    def _some(self, chance: random.Random) -> list[str]:
        # New connections come all the time, and each is wanted by many at once.
        first = next(self._frontier) // 16
        return [f"c{first + chance.randrange(10)}" for _ in range(chance.randrange(1, 9))]

    def _read(self, connection_id: str) -> ReadOutcome:
        if self._chance.random() < 0.1:
            return Unavailable("Meld answered 500")
        number = int(connection_id[1:])
        near = range(max(0, number - 4), number + 5)
        group = [f"c{each}" for each in near if self._chance.random() < 0.5]
        primary = self._chance.choice(group) if group else None
        status = self._chance.choice(["ACTIVE", "DEGRADED"])
        return found(connection_id, status, activeDuplicateConnectionId=primary, duplicateConnectionIds=group)


def test_writers_and_workers_never_deadlock(postgres: Database) -> None:
    """Hundreds of batches of overlapping events, while workers read changing groups of the same connections."""
    crowd = Crowd(postgres)

    def write_all() -> None:
        try:
            errors.extend(together(*[lambda seed=seed: crowd.write(seed, batches=60) for seed in range(4)]))
        finally:
            crowd.is_over.set()

    errors: list[BaseException] = []
    errors += together(
        write_all, *[lambda seed=seed: crowd.work(seed) for seed in range(10, 13)], lambda: crowd.ask(20)
    )

    assert [repr(error.__cause__ or error) for error in errors] == []
