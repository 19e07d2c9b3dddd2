import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, text
from sqlmodel import col, select

from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.meld.webhook import Hint, ReceivedWebhook
from schemas.tables import ReadRequestRow, WebhookRow
from service.ingest.inbox import MAX_BATCH_SIZE, MAX_QUEUE_LENGTH, Inbox
from service.ingest.webhook_insert import make_webhook_table
from tests.service.ingest.webhook_server import FakeWebhookTable, running_inbox
from tests.support.encryption_keys import ENCRYPTION
from tests.support.polling import eventually
from tests.support.webhook_factory import body, received_webhook

STORED = "stored"


async def put(store: Inbox, item: ReceivedWebhook) -> str:
    """Store a webhook; return ``stored``, or the error text."""
    try:
        await store.put(item)
    except OutOfReachError as error:
        return str(error)
    return STORED


def put_all(store: Inbox, items: Sequence[ReceivedWebhook]) -> list[str]:
    """Store webhooks concurrently; return the result of each."""

    async def run() -> list[str]:
        return await asyncio.gather(*(put(store, item) for item in items))

    return asyncio.run(run())


class Background:
    """Pending puts on a separate event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def start(self, work: Coroutine[Any, Any, str]) -> Any:
        """Start a put; return a future of its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        """Stop the event loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def background() -> Iterator[Background]:
    """A separate event loop."""
    background = Background()
    yield background
    background.stop()


@pytest.fixture
def table() -> Iterator[FakeWebhookTable]:
    """A table in memory."""
    table = FakeWebhookTable()
    yield table
    table.gate.set()


def deliveries(count: int, connection_id: str | None = "c1") -> list[ReceivedWebhook]:
    return [received_webhook(body(connection_id)) for _ in range(count)]


def webhooks(database: Database) -> list[WebhookRow]:
    with database.read() as session:
        return list(session.exec(select(WebhookRow).order_by(col(WebhookRow.id))).all())


def test_webhooks_that_wait_share_the_next_commit(table: FakeWebhookTable, background: Background) -> None:
    """A hundred webhooks that arrive during a commit share the next commit."""
    table.gate.clear()
    with running_inbox(table) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: table.sizes)
        others = [background.start(put(store, each)) for each in deliveries(100)]
        eventually(lambda: store._queue.qsize() == 100)
        table.gate.set()
        results = [each.result(5) for each in (first, *others)]

    assert (table.sizes, results) == ([1, 100], [STORED] * 101)


def test_a_batch_is_limited_by_number(table: FakeWebhookTable, background: Background) -> None:
    """Batches have at most 500 webhooks, in order of arrival."""
    table.gate.clear()
    crowd = deliveries(2 * MAX_BATCH_SIZE + 7)
    with running_inbox(table) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: table.sizes)
        crowded = background.start(crowd_in(store, crowd))
        eventually(lambda: store._queue.qsize() == len(crowd))
        table.gate.set()
        assert (first.result(5), crowded.result(5)) == (STORED, STORED)

    assert table.sizes == [1, MAX_BATCH_SIZE, MAX_BATCH_SIZE, 7]
    assert table.stored[1:] == crowd


def test_a_batch_is_limited_by_bytes(table: FakeWebhookTable, background: Background) -> None:
    """Batches of large bodies are limited by bytes, so that no statement takes too long."""
    table.gate.clear()
    large = [received_webhook(body("c1", filler="x" * 1024 * 1024)) for _ in range(40)]
    with running_inbox(table) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: table.sizes)
        crowded = background.start(crowd_in(store, large))
        eventually(lambda: store._queue.qsize() == len(large))
        table.gate.set()
        assert (first.result(5), crowded.result(5)) == (STORED, STORED)

    assert table.sizes == [1, 8, 8, 8, 8, 8]


def test_many_of_the_largest_bodies_are_stored_in_time(postgres_url: str) -> None:
    """Fifty webhooks of 1 MiB at once are stored well before Meld's timeout."""
    database = Database(postgres_url)
    large = [received_webhook(body("c1", filler="x" * 1024 * 1000)) for _ in range(50)]
    with running_inbox(database) as store:
        results = put_all(store, large)
    database.close()

    assert set(results) == {STORED}


async def crowd_in(store: Inbox, crowd: Sequence[ReceivedWebhook]) -> str:
    results = await asyncio.gather(*(put(store, each) for each in crowd))
    return STORED if set(results) == {STORED} else str(set(results))


def test_a_full_inbox_refuses_at_once(table: FakeWebhookTable, background: Background) -> None:
    """A full inbox refuses at once, stores what it accepted, and accepts more afterwards."""
    table.gate.clear()
    with running_inbox(table) as store:
        taken = background.start(crowd_in(store, deliveries(MAX_QUEUE_LENGTH)))
        eventually(lambda: store._queue.qsize() + sum(table.sizes) == MAX_QUEUE_LENGTH)
        more = background.start(crowd_in(store, deliveries(MAX_QUEUE_LENGTH - store._queue.qsize())))
        eventually(lambda: store._queue.qsize() == MAX_QUEUE_LENGTH)

        refused = put_all(store, deliveries(3))
        table.gate.set()
        results = [taken.result(10), more.result(10), *put_all(store, deliveries(1))]

    assert (refused, results) == (["the inbox is full"] * 3, [STORED] * 3)


def test_stopping_stores_waiting_webhooks_and_refuses_later_ones(
    table: FakeWebhookTable, background: Background
) -> None:
    """A stopped inbox leaves no put pending, and closes its table."""
    table.gate.clear()
    store = Inbox(table=table, notify_workers=lambda _ids: None, metrics=Metrics())
    store.start()
    waiting = background.start(crowd_in(store, deliveries(700)))
    eventually(lambda: store._queue.qsize() + sum(table.sizes) == 700)
    stopping = threading.Thread(target=store.stop)
    stopping.start()
    late = eventually(lambda: [result for result in put_all(store, deliveries(1)) if result != STORED])
    table.gate.set()
    stopping.join()

    assert (waiting.result(5), late) == (STORED, ["the inbox is stopping"])
    assert (len(table.stored), table.is_closed, store.is_alive()) == (700, True, False)


def test_a_put_that_was_not_enqueued_before_the_stop_fails_at_once(table: FakeWebhookTable) -> None:
    """A put in the same loop iteration as the stop does not wait for ever."""
    store = Inbox(table=table, notify_workers=lambda _ids: None, metrics=Metrics(), commit_timeout_seconds=60)
    store.start()

    async def run() -> str:
        waiting = asyncio.ensure_future(put(store, *deliveries(1)))
        asyncio.get_running_loop().call_soon(store.stop)
        return await asyncio.wait_for(waiting, 2)

    assert asyncio.run(run()) in {STORED, "the inbox is stopping"}


def test_stopping_does_not_wait_for_a_database_that_hangs(table: FakeWebhookTable) -> None:
    """Stopping has a timeout."""
    table.gate.clear()
    with running_inbox(table, commit_timeout_seconds=0.1) as store:
        put_all(store, deliveries(1))
        store.stop(0.1)

        assert store.is_alive()
        table.gate.set()
    assert not store.is_alive()


def test_a_commit_after_the_timeout_is_no_error(table: FakeWebhookTable) -> None:
    """A put that times out may still be stored; Meld's retry is then a repeat."""
    table.gate.clear()
    with running_inbox(table, commit_timeout_seconds=0.1) as store:
        refused = put_all(store, deliveries(2))
        table.gate.set()
        eventually(lambda: len(table.stored) == 2)
        taken = put_all(store, deliveries(1))

    assert (refused, taken) == (["the database took too long"] * 2, [STORED])


def test_an_unreachable_database_fails_one_batch_only(table: FakeWebhookTable) -> None:
    """All puts of a failed batch fail; the inbox survives."""
    table.error = OutOfReachError("The database does not answer.")
    with running_inbox(table) as store:
        refused = put_all(store, deliveries(20))
        table.error = None
        taken = put_all(store, deliveries(20))

    assert refused == ["The database does not answer."] * 20
    assert (taken, len(table.stored)) == ([STORED] * 20, 20)


def test_workers_are_notified_after_the_commit_only(table: FakeWebhookTable) -> None:
    """Workers are notified after commits only, once for each connection of a batch."""
    calls: list[tuple[int, list[str]]] = []
    with running_inbox(table, notify_workers=lambda ids: calls.append((len(table.stored), sorted(ids)))) as store:
        table.error = OutOfReachError("away")
        put_all(store, deliveries(1, "lost"))
        table.error = None
        put_all(store, deliveries(1, "c1"))
        put_all(store, deliveries(1, None))

    assert calls == [(1, ["c1"]), (2, [])]


def test_a_cancelled_put_does_not_stop_the_others(table: FakeWebhookTable, background: Background) -> None:
    """A cancelled put does not affect the others of its batch."""
    table.gate.clear()
    with running_inbox(table) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: table.sizes)
        gone, stays = (background.start(put(store, each)) for each in deliveries(2))
        eventually(lambda: store._queue.qsize() == 2)
        gone.cancel()
        table.gate.set()

        assert (first.result(5), stays.result(5), gone.cancelled()) == (STORED, STORED, True)
    assert len(table.stored) == 3


def test_a_loop_that_has_ended_does_not_stop_the_writer(table: FakeWebhookTable) -> None:
    """Results for a closed event loop are dropped."""
    table.gate.clear()
    with running_inbox(table) as store:
        loop = asyncio.new_event_loop()
        task = loop.create_task(put(store, *deliveries(1)))
        loop.run_until_complete(asyncio.sleep(0))
        eventually(lambda: table.sizes)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()
        table.gate.set()

        assert put_all(store, deliveries(1)) == [STORED]


def test_several_event_loops_share_a_batch(table: FakeWebhookTable, background: Background) -> None:
    """One batch may have webhooks of several event loops."""
    other = Background()
    table.gate.clear()
    with running_inbox(table) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: table.sizes)
        waiting = [loop.start(crowd_in(store, deliveries(10))) for loop in (background, other)]
        eventually(lambda: store._queue.qsize() == 20)
        table.gate.set()
        results = [each.result(5) for each in (first, *waiting)]
    other.stop()

    assert (results, table.sizes) == ([STORED] * 3, [1, 20])


class Picky(FakeWebhookTable):
    """A table that rejects every batch with a bad webhook."""

    def insert(self, deliveries: Sequence[ReceivedWebhook]) -> list[str]:
        """Store a batch without bad webhooks."""
        if any(b"bad" in each.body for each in deliveries):
            self.sizes.append(len(deliveries))
            raise TypeError("bad")
        return super().insert(deliveries)


@pytest.mark.parametrize("places", [[0], [99], [50], [0, 99], [3, 4, 5, 77], list(range(100))], ids=str)
def test_a_bad_webhook_does_not_fail_its_batch(background: Background, places: list[int]) -> None:
    """Only the bad webhook fails, wherever it is in the batch; bisection needs few attempts."""
    picky = Picky()
    picky.gate.clear()
    batch = [
        received_webhook(body("c1", event_id=f"{'bad' if place in places else 'good'}-{place}")) for place in range(100)
    ]
    with running_inbox(picky) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: picky.sizes)
        waiting = [background.start(put(store, each)) for each in batch]
        eventually(lambda: store._queue.qsize() == 100)
        picky.gate.set()
        results = [each.result(5) for each in waiting]
        first.result(5)

    assert [place for place, result in enumerate(results) if result != STORED] == places
    assert len(picky.stored) == 101 - len(places)
    assert len(picky.sizes) <= 2 + 2 * 8 * len(places)


def test_concurrent_puts_share_commits(database: Database) -> None:
    """Two hundred concurrent puts need far fewer commits, and all are stored."""
    metrics = Metrics()
    store = Inbox(table=make_webhook_table(database, ENCRYPTION), notify_workers=lambda _ids: None, metrics=metrics)
    store.start()
    results = put_all(store, deliveries(200))
    store.stop()

    batches = metrics.registry.get_sample_value("meldwatch_store_batch_size_count") or 0
    assert (results, len(webhooks(database))) == ([STORED] * 200, 200)
    assert batches <= 20


def test_every_put_returns_after_its_commit(database: Database, database_url: str) -> None:
    """When the put returns, another connection sees the webhook and the read request."""
    other = Database(database_url)

    async def seen(store: Inbox, event_id: str) -> tuple[bool, bool]:
        await store.put(received_webhook(body(f"c-{event_id}", event_id=event_id)))
        with other.read() as session:
            webhook = session.exec(select(WebhookRow.id).where(WebhookRow.event_id == event_id)).first()
            job = session.exec(
                select(ReadRequestRow.requested).where(ReadRequestRow.connection_id == f"c-{event_id}")
            ).first()
        return webhook is not None, job == 1

    async def run(store: Inbox) -> list[tuple[bool, bool]]:
        return await asyncio.gather(*(seen(store, f"e{number}") for number in range(60)))

    with running_inbox(database) as store:
        results = asyncio.run(run(store))
    other.close()

    assert results == [(True, True)] * 60


def test_repeats_request_no_read(database: Database) -> None:
    """One event, three times in sequence and twenty times concurrently, is one webhook and one read request."""
    raw = body("c1", event_id="e1")
    with running_inbox(database) as store:
        results = [result for _ in range(3) for result in put_all(store, [received_webhook(raw)])]
        results += put_all(store, [received_webhook(raw)] * 20)

    (webhook,) = webhooks(database)
    with database.read() as session:
        requested = session.exec(select(ReadRequestRow.requested)).all()
    assert (results, webhook.deliveries, list(requested)) == ([STORED] * 23, 23, [1])


def bad_in_both() -> ReceivedWebhook:
    """Return a webhook that no database can store: invalid text."""
    return replace(received_webhook(body("c1")), hint=Hint(event_id="bad", type="\ud800", connection_id="c1"))


def test_a_webhook_that_any_database_rejects_does_not_fail_its_batch(database: Database) -> None:
    """The others of the batch are stored, and the inbox survives."""
    good = deliveries(30)
    with running_inbox(database) as store:
        results = put_all(store, [*good[:15], bad_in_both(), *good[15:]])
        after = put_all(store, deliveries(1))

    assert results.count(STORED) == 30
    assert results[15] == "the database rejected it"
    assert (after, len(webhooks(database))) == ([STORED], 31)


@pytest.mark.parametrize(
    "hint",
    [
        pytest.param(Hint(event_id="bad", connection_id="a\x00b"), id="NUL"),
        pytest.param(Hint(event_id="".join(map(chr, range(0x4E00, 0x4E00 + 9000)))), id="too long for its index"),
    ],
)
def test_a_webhook_that_postgres_rejects_does_not_fail_its_batch(postgres_url: str, hint: Hint) -> None:
    """Also one that only PostgreSQL rejects."""
    database = Database(postgres_url)
    good = deliveries(30)
    with running_inbox(database) as store:
        results = put_all(store, [*good[:15], replace(good[0], hint=hint), *good[15:]])
        stored = len(webhooks(database))
    database.close()

    assert (results.count(STORED), results[15], stored) == (30, "the database rejected it", 30)


POSTGRES_COMMITS_FAIL = (
    """
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'at commit'; END $$
    """,
    """
    CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON webhook DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fail()
    """,
)
SQLITE_COMMITS_FAIL = (
    "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
    "CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TRIGGER fail AFTER INSERT ON webhook BEGIN INSERT INTO child VALUES (1); END",
)


def let_commits_fail(database: Database) -> None:
    """Make the database reject a webhook at the commit (deferred constraint)."""
    if not database.is_postgres:
        event.listen(database.engine, "connect", lambda raw, _entry: raw.execute("PRAGMA foreign_keys = ON"))
        database.engine.dispose()
    with database.write() as session:
        for statement in POSTGRES_COMMITS_FAIL if database.is_postgres else SQLITE_COMMITS_FAIL:
            session.execute(text(statement))


def test_a_failed_commit_fails_all_puts(database: Database) -> None:
    """If the commit fails after the statement succeeded, the puts fail."""
    let_commits_fail(database)
    with running_inbox(database) as store:
        results = put_all(store, deliveries(10))
        stored = webhooks(database)
        with database.write() as session:
            drop = "DROP TRIGGER fail ON webhook" if database.is_postgres else "DROP TRIGGER fail"
            session.execute(text(drop))
        after = put_all(store, deliveries(1))

    assert (results, stored, after) == (["the database rejected it"] * 10, [], [STORED])


def test_a_lost_connection_costs_one_batch(postgres_url: str) -> None:
    """After PostgreSQL terminated the writer's connection, one batch fails and the next is stored."""
    database = Database(postgres_url)
    rounds = []
    with running_inbox(database) as store:
        put_all(store, deliveries(1))
        for _ in range(5):
            cut_connections(postgres_url)
            rounds.append([put_all(store, deliveries(1))[0] == STORED for _ in range(2)])
        stored = len(webhooks(database))
    database.close()

    assert [second for _, second in rounds] == [True] * 5
    assert stored == 1 + sum(map(sum, rounds))


def cut_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_the_inbox_reconnects_to_the_database(postgres_url: str) -> None:
    """While PostgreSQL refuses connections, all puts fail; afterwards the same inbox stores again."""
    database = Database(postgres_url)
    name = postgres_url.rsplit("/", 1)[1]
    admin = psycopg.connect(postgres_url.removesuffix(name) + "postgres", autocommit=True)
    with running_inbox(database) as store:
        before = put_all(store, deliveries(3))
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        away = [result for _ in range(3) for result in put_all(store, deliveries(3))]
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        back = put_all(store, deliveries(3))
        stored = len(webhooks(database))
    admin.close()
    database.close()

    assert (before, back) == ([STORED] * 3, [STORED] * 3)
    assert STORED not in away
    assert stored == 6


def test_puts_time_out_while_the_table_is_locked(postgres_url: str) -> None:
    """If the writer hangs in the database, puts time out; the webhooks are stored afterwards."""
    database = Database(postgres_url)
    with psycopg.connect(postgres_url) as locker, running_inbox(database, commit_timeout_seconds=0.3) as store:
        locker.execute("LOCK TABLE webhook")
        refused = put_all(store, deliveries(5))
        locker.rollback()
        eventually(lambda: len(webhooks(database)) == 5)
        taken = put_all(store, deliveries(1))
    database.close()

    assert (refused, taken) == (["the database took too long"] * 5, [STORED])
