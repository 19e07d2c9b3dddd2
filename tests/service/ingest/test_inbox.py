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
from tests.service.ingest.webhook_server import Shelf, inbox
from tests.support.encryption_keys import ENCRYPTION
from tests.support.polling import eventually
from tests.support.webhook_factory import body, delivery

STORED = "stored"


async def put(store: Inbox, item: ReceivedWebhook) -> str:
    """Store a delivery; return ``stored``, or why it was not."""
    try:
        await store.put(item)
    except OutOfReachError as error:
        return str(error)
    return STORED


def put_all(store: Inbox, items: Sequence[ReceivedWebhook]) -> list[str]:
    """Store deliveries at once, and return what each came to."""

    async def run() -> list[str]:
        return await asyncio.gather(*(put(store, item) for item in items))

    return asyncio.run(run())


class Background:
    """Puts that wait, on an event loop of their own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def start(self, work: Coroutine[Any, Any, str]) -> Any:
        """Begin, and return a future of the result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        """End the event loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def background() -> Iterator[Background]:
    """An event loop beside the test."""
    background = Background()
    yield background
    background.stop()


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """A table in memory."""
    shelf = Shelf()
    yield shelf
    shelf.gate.set()


def deliveries(count: int, connection_id: str | None = "c1") -> list[ReceivedWebhook]:
    return [delivery(body(connection_id)) for _ in range(count)]


def webhooks(database: Database) -> list[WebhookRow]:
    with database.read() as session:
        return list(session.exec(select(WebhookRow).order_by(col(WebhookRow.id))).all())


def test_what_waits_during_a_commit_shares_the_next(shelf: Shelf, background: Background) -> None:
    """While one delivery is written a hundred come; they are written together."""
    shelf.gate.clear()
    with inbox(shelf) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: shelf.sizes)
        others = [background.start(put(store, each)) for each in deliveries(100)]
        eventually(lambda: store._queue.qsize() == 100)
        shelf.gate.set()
        results = [each.result(5) for each in (first, *others)]

    assert (shelf.sizes, results) == ([1, 100], [STORED] * 101)


def test_a_batch_has_a_bound(shelf: Shelf, background: Background) -> None:
    """A crowd is written in batches of at most 500, in the order in which it came."""
    shelf.gate.clear()
    crowd = deliveries(2 * MAX_BATCH_SIZE + 7)
    with inbox(shelf) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: shelf.sizes)
        crowded = background.start(crowd_in(store, crowd))
        eventually(lambda: store._queue.qsize() == len(crowd))
        shelf.gate.set()
        assert (first.result(5), crowded.result(5)) == (STORED, STORED)

    assert shelf.sizes == [1, MAX_BATCH_SIZE, MAX_BATCH_SIZE, 7]
    assert shelf.kept[1:] == crowd


def test_a_batch_of_large_bodies_has_a_bound(shelf: Shelf, background: Background) -> None:
    """Bodies of a mebibyte share commits by the handful, not by the hundred: a statement must not take too long."""
    shelf.gate.clear()
    large = [delivery(body("c1", filler="x" * 1024 * 1024)) for _ in range(40)]
    with inbox(shelf) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: shelf.sizes)
        crowded = background.start(crowd_in(store, large))
        eventually(lambda: store._queue.qsize() == len(large))
        shelf.gate.set()
        assert (first.result(5), crowded.result(5)) == (STORED, STORED)

    assert shelf.sizes == [1, 8, 8, 8, 8, 8]


def test_a_crowd_of_the_largest_bodies_is_stored(postgres_url: str) -> None:
    """Fifty webhooks of a mebibyte that come at once are stored well before Meld loses its patience."""
    database = Database(postgres_url)
    large = [delivery(body("c1", filler="x" * 1024 * 1000)) for _ in range(50)]
    with inbox(database) as store:
        results = put_all(store, large)
    database.close()

    assert set(results) == {STORED}


async def crowd_in(store: Inbox, crowd: Sequence[ReceivedWebhook]) -> str:
    results = await asyncio.gather(*(put(store, each) for each in crowd))
    return STORED if set(results) == {STORED} else str(set(results))


def test_more_than_may_wait_are_refused_at_once(shelf: Shelf, background: Background) -> None:
    """A full inbox says so without making the sender wait, stores what it took, and takes more afterwards."""
    shelf.gate.clear()
    with inbox(shelf) as store:
        taken = background.start(crowd_in(store, deliveries(MAX_QUEUE_LENGTH)))
        eventually(lambda: store._queue.qsize() + sum(shelf.sizes) == MAX_QUEUE_LENGTH)
        more = background.start(crowd_in(store, deliveries(MAX_QUEUE_LENGTH - store._queue.qsize())))
        eventually(lambda: store._queue.qsize() == MAX_QUEUE_LENGTH)

        refused = put_all(store, deliveries(3))
        shelf.gate.set()
        results = [taken.result(10), more.result(10), *put_all(store, deliveries(1))]

    assert (refused, results) == (["the inbox is full"] * 3, [STORED] * 3)


def test_stopping_stores_what_waits_and_refuses_what_comes(shelf: Shelf, background: Background) -> None:
    """An inbox that ends owes nobody an answer, and lets go of its table."""
    shelf.gate.clear()
    store = Inbox(table=shelf, notify_workers=lambda _ids: None, metrics=Metrics())
    store.start()
    waiting = background.start(crowd_in(store, deliveries(700)))
    eventually(lambda: store._queue.qsize() + sum(shelf.sizes) == 700)
    stopping = threading.Thread(target=store.stop)
    stopping.start()
    late = eventually(lambda: [result for result in put_all(store, deliveries(1)) if result != STORED])
    shelf.gate.set()
    stopping.join()

    assert (waiting.result(5), late) == (STORED, ["the inbox is stopping"])
    assert (len(shelf.kept), shelf.is_closed, store.is_alive()) == (700, True, False)


def test_what_was_not_handed_over_before_the_end_is_refused_at_once(shelf: Shelf) -> None:
    """A delivery that came in the turn of its loop in which the inbox stopped is not left to wait."""
    store = Inbox(table=shelf, notify_workers=lambda _ids: None, metrics=Metrics(), commit_timeout_seconds=60)
    store.start()

    async def run() -> str:
        waiting = asyncio.ensure_future(put(store, *deliveries(1)))
        asyncio.get_running_loop().call_soon(store.stop)
        return await asyncio.wait_for(waiting, 2)

    assert asyncio.run(run()) in {STORED, "the inbox is stopping"}


def test_stopping_does_not_wait_for_a_database_that_hangs(shelf: Shelf) -> None:
    """Who stops waits for a while, not for ever."""
    shelf.gate.clear()
    with inbox(shelf, answer_seconds=0.1) as store:
        put_all(store, deliveries(1))
        store.stop(0.1)

        assert store.is_alive()
        shelf.gate.set()
    assert not store.is_alive()


def test_a_late_commit_is_no_answer_and_no_error(shelf: Shelf) -> None:
    """A delivery that waited too long is refused, and stored all the same: Meld's retry will be a repeat."""
    shelf.gate.clear()
    with inbox(shelf, answer_seconds=0.1) as store:
        refused = put_all(store, deliveries(2))
        shelf.gate.set()
        eventually(lambda: len(shelf.kept) == 2)
        taken = put_all(store, deliveries(1))

    assert (refused, taken) == (["the database took too long"] * 2, [STORED])


def test_a_database_that_is_away_refuses_a_batch_and_takes_the_next(shelf: Shelf) -> None:
    """Nobody of a batch that was not stored is told that it was; the inbox lives on."""
    shelf.error = OutOfReachError("The database does not answer.")
    with inbox(shelf) as store:
        refused = put_all(store, deliveries(20))
        shelf.error = None
        taken = put_all(store, deliveries(20))

    assert refused == ["The database does not answer."] * 20
    assert (taken, len(shelf.kept)) == ([STORED] * 20, 20)


def test_workers_are_called_after_the_commit_alone(shelf: Shelf) -> None:
    """Calls follow what was stored: none for a batch that was not, each connection once a batch."""
    calls: list[tuple[int, list[str]]] = []
    with inbox(shelf, wake=lambda ids: calls.append((len(shelf.kept), sorted(ids)))) as store:
        shelf.error = OutOfReachError("away")
        put_all(store, deliveries(1, "lost"))
        shelf.error = None
        put_all(store, deliveries(1, "c1"))
        put_all(store, deliveries(1, None))

    assert calls == [(1, ["c1"]), (2, [])]


def test_a_sender_that_is_gone_does_not_stop_the_others(shelf: Shelf, background: Background) -> None:
    """A request that was cancelled while it waited takes no other's answer with it."""
    shelf.gate.clear()
    with inbox(shelf) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: shelf.sizes)
        gone, stays = (background.start(put(store, each)) for each in deliveries(2))
        eventually(lambda: store._queue.qsize() == 2)
        gone.cancel()
        shelf.gate.set()

        assert (first.result(5), stays.result(5), gone.cancelled()) == (STORED, STORED, True)
    assert len(shelf.kept) == 3


def test_a_loop_that_has_ended_does_not_stop_the_writer(shelf: Shelf) -> None:
    """Answers to an event loop that is gone are dropped."""
    shelf.gate.clear()
    with inbox(shelf) as store:
        loop = asyncio.new_event_loop()
        task = loop.create_task(put(store, *deliveries(1)))
        loop.run_until_complete(asyncio.sleep(0))
        eventually(lambda: shelf.sizes)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()
        shelf.gate.set()

        assert put_all(store, deliveries(1)) == [STORED]


def test_several_loops_are_answered_each_on_its_own(shelf: Shelf, background: Background) -> None:
    """One batch may hold deliveries of several event loops."""
    other = Background()
    shelf.gate.clear()
    with inbox(shelf) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: shelf.sizes)
        waiting = [loop.start(crowd_in(store, deliveries(10))) for loop in (background, other)]
        eventually(lambda: store._queue.qsize() == 20)
        shelf.gate.set()
        results = [each.result(5) for each in (first, *waiting)]
    other.stop()

    assert (results, shelf.sizes) == ([STORED] * 3, [1, 20])


class Picky(Shelf):
    """A table that cannot take some deliveries, and says so of the whole batch."""

    def insert(self, deliveries: Sequence[ReceivedWebhook]) -> list[str]:
        """Keep a batch without bad ones."""
        if any(b"bad" in each.body for each in deliveries):
            self.sizes.append(len(deliveries))
            raise TypeError("bad")
        return super().insert(deliveries)


@pytest.mark.parametrize("places", [[0], [99], [50], [0, 99], [3, 4, 5, 77], list(range(100))], ids=str)
def test_a_bad_delivery_does_not_fail_its_batch(background: Background, places: list[int]) -> None:
    """What cannot be stored is refused alone, wherever it is in its batch, and found in few attempts."""
    picky = Picky()
    picky.gate.clear()
    batch = [delivery(body("c1", event_id=f"{'bad' if place in places else 'good'}-{place}")) for place in range(100)]
    with inbox(picky) as store:
        first = background.start(put(store, *deliveries(1)))
        eventually(lambda: picky.sizes)
        waiting = [background.start(put(store, each)) for each in batch]
        eventually(lambda: store._queue.qsize() == 100)
        picky.gate.set()
        results = [each.result(5) for each in waiting]
        first.result(5)

    assert [place for place, result in enumerate(results) if result != STORED] == places
    assert len(picky.kept) == 101 - len(places)
    assert len(picky.sizes) <= 2 + 2 * 8 * len(places)


def test_concurrent_deliveries_share_commits(database: Database) -> None:
    """Two hundred at once need far fewer commits than two hundred, and all are there."""
    metrics = Metrics()
    store = Inbox(table=make_webhook_table(database, ENCRYPTION), notify_workers=lambda _ids: None, metrics=metrics)
    store.start()
    results = put_all(store, deliveries(200))
    store.stop()

    batches = metrics.registry.get_sample_value("meldwatch_store_batch_size_count") or 0
    assert (results, len(webhooks(database))) == ([STORED] * 200, 200)
    assert batches <= 20


def test_every_answer_is_preceded_by_its_commit(database: Database, database_url: str) -> None:
    """In the moment of the answer another connection sees the webhook and its job."""
    other = Database(database_url)

    async def seen(store: Inbox, event_id: str) -> tuple[bool, bool]:
        await store.put(delivery(body(f"c-{event_id}", event_id=event_id)))
        with other.read() as session:
            webhook = session.exec(select(WebhookRow.id).where(WebhookRow.event_id == event_id)).first()
            job = session.exec(
                select(ReadRequestRow.requested).where(ReadRequestRow.connection_id == f"c-{event_id}")
            ).first()
        return webhook is not None, job == 1

    async def run(store: Inbox) -> list[tuple[bool, bool]]:
        return await asyncio.gather(*(seen(store, f"e{number}") for number in range(60)))

    with inbox(database) as store:
        results = asyncio.run(run(store))
    other.close()

    assert results == [(True, True)] * 60


def test_repeats_in_line_and_at_once_raise_nothing(database: Database) -> None:
    """One event that comes three times in line and twenty times at once is one webhook and one wish."""
    raw = body("c1", event_id="e1")
    with inbox(database) as store:
        results = [result for _ in range(3) for result in put_all(store, [delivery(raw)])]
        results += put_all(store, [delivery(raw)] * 20)

    (webhook,) = webhooks(database)
    with database.read() as session:
        requested = session.exec(select(ReadRequestRow.requested)).all()
    assert (results, webhook.deliveries, list(requested)) == ([STORED] * 23, 23, [1])


def bad_in_both() -> ReceivedWebhook:
    """Return a delivery that no database can take: text that is none."""
    return replace(delivery(body("c1")), hint=Hint(event_id="bad", type="\ud800", connection_id="c1"))


def test_what_a_database_refuses_does_not_fail_its_batch(database: Database) -> None:
    """Beside a row that cannot be stored the others of the batch are, and the inbox lives on."""
    good = deliveries(30)
    with inbox(database) as store:
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
def test_what_postgres_refuses_does_not_fail_its_batch(postgres_url: str, hint: Hint) -> None:
    """So it is with what PostgreSQL alone cannot take."""
    database = Database(postgres_url)
    good = deliveries(30)
    with inbox(database) as store:
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
    """Have the database find out at the commit, not before, that it cannot take a webhook."""
    if not database.is_postgres:
        event.listen(database.engine, "connect", lambda raw, _entry: raw.execute("PRAGMA foreign_keys = ON"))
        database.engine.dispose()
    with database.write() as session:
        for statement in POSTGRES_COMMITS_FAIL if database.is_postgres else SQLITE_COMMITS_FAIL:
            session.execute(text(statement))


def test_a_commit_that_fails_answers_nobody(database: Database) -> None:
    """A statement that succeeded is not yet a commit: where that fails, nobody is told that anything was stored."""
    let_commits_fail(database)
    with inbox(database) as store:
        results = put_all(store, deliveries(10))
        stored = webhooks(database)
        with database.write() as session:
            drop = "DROP TRIGGER fail ON webhook" if database.is_postgres else "DROP TRIGGER fail"
            session.execute(text(drop))
        after = put_all(store, deliveries(1))

    assert (results, stored, after) == (["the database rejected it"] * 10, [], [STORED])


def test_a_connection_that_is_cut_costs_one_batch(postgres_url: str) -> None:
    """After PostgreSQL ended the writer's connection, the batch that notices is refused and the next is stored."""
    database = Database(postgres_url)
    rounds = []
    with inbox(database) as store:
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


def test_a_database_that_was_away_is_found_again(postgres_url: str) -> None:
    """While PostgreSQL lets nobody in, all are refused; as soon as it does, all are stored, by the same inbox."""
    database = Database(postgres_url)
    name = postgres_url.rsplit("/", 1)[1]
    admin = psycopg.connect(postgres_url.removesuffix(name) + "postgres", autocommit=True)
    with inbox(database) as store:
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


def test_a_locked_table_is_waited_for_no_longer_than_promised(postgres_url: str) -> None:
    """A writer that hangs in the database holds up no sender beyond its time; what waited is stored afterwards."""
    database = Database(postgres_url)
    with psycopg.connect(postgres_url) as locker, inbox(database, answer_seconds=0.3) as store:
        locker.execute("LOCK TABLE webhook")
        refused = put_all(store, deliveries(5))
        locker.rollback()
        eventually(lambda: len(webhooks(database)) == 5)
        taken = put_all(store, deliveries(1))
    database.close()

    assert (refused, taken) == (["the database took too long"] * 5, [STORED])
