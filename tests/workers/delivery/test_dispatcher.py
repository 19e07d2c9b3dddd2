import itertools
import json
import threading
from collections import defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, update
from sqlmodel import col, select

from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from runtime.security.encryption import Encryption
from schemas.push import PushResult
from schemas.tables import DeliveryQueueRow, DeliveryRow, SubscriptionRow
from tests.support.polling import eventually
from tests.support.processes.handler_processes import ScriptedHandlers
from tests.support.scripted_consumer import (
    ENCRYPTION,
    SECRET,
    ScriptedConsumer,
    deliveries,
    delivery_queues,
    emit,
    make_dispatcher,
    run_in_threads,
    subscribe,
    subscription,
)
from tests.support.scripted_meld import ScriptedReader, found, make_refetcher
from tests.support.webhook_factory import body, store
from workers.delivery.backoff import GIVE_UP_SECONDS, RETRY_SECONDS
from workers.delivery.dispatcher import DeliveryDispatcher
from workers.delivery.transport import DeliveryTransport

FAILED = PushResult(500, "the consumer answered 500", "sorry")


@pytest.fixture
def consumer() -> ScriptedConsumer:
    """A consumer that answers as scripted."""
    return ScriptedConsumer()


@pytest.fixture
def deliver(database: Database, consumer: ScriptedConsumer) -> DeliveryDispatcher:
    """The dispatcher that pushes to it."""
    return make_dispatcher(database, consumer)


def end_backoff(database: Database) -> None:
    """Make all waiting delivery queues due."""
    past = datetime.now(UTC) - timedelta(hours=1)
    with database.write() as session:
        session.exec(update(DeliveryQueueRow).where(col(DeliveryQueueRow.due_at).is_not(None)).values(due_at=past))


def expire_leases(database: Database) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    with database.write() as session:
        session.exec(
            update(DeliveryQueueRow).where(col(DeliveryQueueRow.lease_token).is_not(None)).values(leased_until=past)
        )


def remaining_backoff(database: Database) -> float:
    """Return the seconds until the only delivery queue is due."""
    (queue,) = delivery_queues(database)
    assert queue.due_at is not None
    return (queue.due_at - datetime.now(UTC)).total_seconds()


def test_an_event_is_pushed_to_each_matching_subscription(
    database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer
) -> None:
    """The event of a changed connection is fanned out to matching subscriptions, and their workers are notified."""
    subscribe(database, "all")
    subscribe(database, "status", types=["connection.status_changed"])
    subscribe(database, "moves", types=["connection.primary_duplicate_moved"])
    pushes: list[str] = []
    store(database, body("c1"))

    make_refetcher(database, ScriptedReader(), pushes=pushes).refetch("c1")
    for id_ in ("all", "status", "moves"):
        deliver.deliver(id_)

    assert pushes == ["all", "status"]
    assert [json.loads(pushed.body)["subject"] for pushed in consumer.pushes] == ["c1", "c1"]
    assert [(row.subscription_id, row.attempts, row.delivered_at is not None) for row in deliveries(database)] == [
        ("all", 1, True),
        ("status", 1, True),
    ]
    assert [queue.due_at for queue in delivery_queues(database)] == [None, None]


def test_outcomes_are_kept(database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer) -> None:
    """The row has each attempt's outcome, with the beginning of the consumer's answer if it was not acknowledged."""
    subscribe(database)
    (event_id,) = emit(database, "c1")
    consumer.answers[event_id] = FAILED
    deliver.deliver("s1")
    del consumer.answers[event_id]
    end_backoff(database)
    deliver.deliver("s1")

    (row,) = deliveries(database)
    outcomes = [(outcome["status"], outcome["error"], outcome["response"]) for outcome in row.outcomes]
    assert outcomes == [(500, "the consumer answered 500", "sorry"), (200, None, None)]
    assert (row.attempts, row.error) == (2, None)
    assert consumer.event_ids == [event_id, event_id]


def test_it_is_tried_again_later_and_later(
    database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer
) -> None:
    """After 5 s, 1 min, 5 min, 30 min, 2 h, and then every 6 h."""
    subscribe(database)
    emit(database, "c1")
    consumer.default_answer = FAILED
    delays = []
    for _ in range(len(RETRY_SECONDS) + 2):
        deliver.deliver("s1")
        delays.append(round(remaining_backoff(database), -1) if remaining_backoff(database) > 10 else 5)
        end_backoff(database)

    assert delays == [5, 60, 300, 1800, 7200, 21600, 21600, 21600]


def test_order_is_kept_after_a_failure(
    database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer
) -> None:
    """Later events of the same connection wait for a failed push; other connections do not."""
    subscribe(database)
    first, second, other = emit(database, "c1", "c1", "c2")
    consumer.answers[first] = FAILED

    deliver.deliver("s1")
    deliver.deliver("s1")
    before = list(consumer.event_ids)
    del consumer.answers[first]
    end_backoff(database)
    deliver.deliver("s1")

    assert sorted(before) == sorted([first, other])
    assert consumer.event_ids[2:] == [first, second]


def test_new_events_do_not_shorten_a_backoff(
    database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer
) -> None:
    """A queue that waits for a retry keeps waiting, however many deliveries are added to it."""
    subscribe(database)
    emit(database, "c1")
    consumer.default_answer = FAILED
    deliver.deliver("s1")

    emit(database, "c1")
    deliver.deliver("s1")

    assert len(consumer.pushes) == 1
    assert 3 < remaining_backoff(database) <= 5


@pytest.mark.parametrize(("asked", "delay"), [(120.0, 120), (1.0, 5), (10.0**7, RETRY_SECONDS[-1])])
def test_a_consumer_may_ask_for_more_time(
    database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer, asked: float, delay: float
) -> None:
    """``Retry-After`` is respected if it is longer than the schedule, up to its maximum."""
    subscribe(database)
    emit(database, "c1")
    consumer.default_answer = PushResult(429, "the consumer answered 429", retry_after=asked)

    deliver.deliver("s1")

    assert delay - 2 < remaining_backoff(database) <= delay


def test_it_is_given_up_after_three_days(
    database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer
) -> None:
    """Then the delivery is dead and kept (dead letter), and the events after it are pushed."""
    subscribe(database)
    dead, behind = emit(database, "c1", "c1")
    consumer.answers[dead] = FAILED
    deliver.deliver("s1")
    long_ago = datetime.now(UTC) - timedelta(seconds=GIVE_UP_SECONDS + 1)
    with database.write() as session:
        session.exec(update(DeliveryRow).where(col(DeliveryRow.attempts) > 0).values(tried_at=long_ago))
    end_backoff(database)

    deliver.deliver("s1")

    assert consumer.event_ids == [dead, dead, behind]
    assert [(row.dead_at is not None, row.delivered_at is not None) for row in deliveries(database)] == [
        (True, False),
        (False, True),
    ]


def test_status_410_disables(database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer) -> None:
    """410 disables the subscription; its deliveries are kept and added, and pushed once it is active again."""
    subscribe(database)
    first, other = emit(database, "c1", "c2")
    consumer.default_answer = PushResult(410, "the consumer answered 410")
    deliver.deliver("s1")
    later = emit(database, "c1")
    deliver.deliver("s1")
    disabled = subscription(database)
    pushed = list(consumer.event_ids)
    consumer.default_answer = PushResult(200)
    with database.write() as session:
        session.exec(update(SubscriptionRow).values(disabled_at=None))
    deliver.deliver("s1")

    assert disabled.disabled_at is not None
    assert pushed == [first]
    assert set(consumer.event_ids[1:]) == {first, other, *later}
    assert all(row.delivered_at for row in deliveries(database))


def test_nothing_is_dropped_while_paused(
    database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer
) -> None:
    """A paused subscription gets nothing, and afterwards everything."""
    subscribe(database, paused_at=datetime.now(UTC))
    events = emit(database, "c1", "c1", "c2")
    deliver.deliver("s1")
    before = list(consumer.pushes)
    with database.write() as session:
        session.exec(update(SubscriptionRow).values(paused_at=None))

    deliver.deliver("s1")

    assert before == []
    assert sorted(consumer.event_ids) == sorted(events)


def test_failing_is_noted_from_the_first_failure_to_the_next_success(
    database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer
) -> None:
    """Further failures keep ``failing_since``; an acknowledged push clears it."""
    subscribe(database)
    emit(database, "c1")
    consumer.default_answer = FAILED
    deliver.deliver("s1")
    first = subscription(database)
    end_backoff(database)
    deliver.deliver("s1")
    second = subscription(database)
    consumer.default_answer = PushResult(200)
    end_backoff(database)
    deliver.deliver("s1")

    assert first.failing_since == second.failing_since is not None
    assert first.error == "the consumer answered 500"
    assert (subscription(database).failing_since, subscription(database).error) == (None, None)


def test_order_is_kept_with_several_workers(database: Database, consumer: ScriptedConsumer) -> None:
    """Two processes with several threads, many connections, new events meanwhile: each queue in order, once."""
    subscribe(database)
    names = [f"c{number}" for number in range(6)]
    in_flight: dict[str, int] = defaultdict(int)
    most: dict[str, int] = defaultdict(int)
    lock = threading.Lock()

    class Watching(ScriptedConsumer):
        """Records how many pushes of a connection run at the same time."""

        def send(self, *arguments: object) -> PushResult:
            """Acknowledge it, slowly."""
            subject = json.loads(arguments[2])["subject"]  # type: ignore[call-overload]
            with lock:
                in_flight[subject] += 1
                most[subject] = max(most[subject], in_flight[subject])
            receipt = super().send(*arguments)  # type: ignore[arg-type]
            threading.Event().wait(0.002)
            with lock:
                in_flight[subject] -= 1
            return receipt

    watching = Watching()
    processes = [make_dispatcher(database, watching) for _ in range(2)]
    order: list[str] = []

    def write() -> None:
        for _ in range(10):
            order.extend(emit(database, *names))

    writer = threading.Thread(target=write)
    writer.start()
    turns = itertools.cycle(processes)

    def work() -> None:
        with lock:
            mine = next(turns)
        while writer.is_alive() or any(queue.due_at for queue in delivery_queues(database)):
            mine.deliver("s1")

    run_in_threads(4, work)
    writer.join()

    got = watching.event_ids
    by_connection = {
        name: [pushed for pushed in got if pushed in set(order[number::6])] for number, name in enumerate(names)
    }
    assert by_connection == {name: order[number::6] for number, name in enumerate(names)}
    assert set(most.values()) == {1}
    assert len(got) == len(order)


def test_a_worker_that_died_is_replaced(database: Database, consumer: ScriptedConsumer) -> None:
    """Another worker leases the queue after the lease has ended, and pushes the event again with the same id."""

    class DiedError(BaseException):
        """The process is gone."""

    def die() -> PushResult:
        raise DiedError

    subscribe(database)
    (event_id,) = emit(database, "c1")
    consumer.answers[event_id] = die
    with pytest.raises(DiedError):
        make_dispatcher(database, consumer).deliver("s1")
    other = make_dispatcher(database, consumer)
    del consumer.answers[event_id]
    other.deliver("s1")
    during = len(consumer.pushes)
    expire_leases(database)
    other.deliver("s1")

    assert (during, consumer.event_ids) == (1, [event_id, event_id])
    assert deliveries(database)[0].delivered_at is not None


def test_a_result_after_the_lease_changes_nothing(database: Database, consumer: ScriptedConsumer) -> None:
    """The result of a push that outlives its lease is discarded: the row has the newer result."""
    subscribe(database)
    first, second = emit(database, "c1", "c1")
    metrics = Metrics()
    slow = make_dispatcher(database, consumer, metrics=metrics)

    def late() -> PushResult:
        del consumer.answers[first]
        expire_leases(database)
        make_dispatcher(database, consumer).deliver("s1")
        return FAILED

    consumer.answers[first] = late
    slow.deliver("s1")

    assert consumer.event_ids == [first, first, second]
    assert [(row.attempts, row.error) for row in deliveries(database)] == [(1, None), (1, None)]
    assert subscription(database).failing_since is None
    assert metrics.registry.get_sample_value("meldwatch_pushes_discarded_total") == 1


def test_leases_are_released_when_a_process_ends(database: Database, consumer: ScriptedConsumer) -> None:
    """The queues of unfinished pushes are free at once; the late result is discarded."""
    subscribe(database)
    (event_id,) = emit(database, "c1")
    ending = make_dispatcher(database, consumer)

    def late() -> PushResult:
        ending.release_leases()
        consumer.answers.clear()
        make_dispatcher(database, consumer).deliver("s1")
        return FAILED

    consumer.answers[event_id] = late
    ending.deliver("s1")

    assert consumer.event_ids == [event_id, event_id]
    assert deliveries(database)[0].delivered_at is not None


def test_a_secret_that_cannot_be_decrypted_costs_no_event(database: Database, consumer: ScriptedConsumer) -> None:
    """Without the key nothing is sent, the error is recorded, and the consumer's three days do not begin."""
    subscribe(database)
    emit(database, "c1")
    blind = make_dispatcher(database, consumer, encryption=Encryption([]))
    blind.deliver("s1")
    long_ago = datetime.now(UTC) - timedelta(seconds=GIVE_UP_SECONDS + 1)
    with database.write() as session:
        session.exec(update(DeliveryRow).values(tried_at=long_ago))
    end_backoff(database)
    blind.deliver("s1")
    (row,) = deliveries(database)
    end_backoff(database)
    make_dispatcher(database, consumer).deliver("s1")

    assert (row.attempts, row.dead_at) == (0, None)
    assert "MELDWATCH_ENCRYPTION_KEYS is not set" in (row.error or "")
    assert len(consumer.pushes) == 1
    assert subscription(database).error is None


def test_nothing_is_decrypted_for_a_handler(database: Database, consumer: ScriptedConsumer) -> None:
    """A handler has no secret: a process without keys can call it, too."""
    subscribe(database, url="python:mine.f", secret="")
    emit(database, "c1")
    handlers = ScriptedHandlers()
    transport = DeliveryTransport(http=consumer, handlers=handlers)
    make_dispatcher(database, transport, encryption=Encryption([])).deliver("s1")

    assert ([name for name, _body in handlers.calls], consumer.pushes) == (["mine.f"], [])
    assert deliveries(database)[0].delivered_at is not None


def test_a_push_that_shutdown_cancels_counts_for_nothing(database: Database, consumer: ScriptedConsumer) -> None:
    """It is no attempt, no error and no delay: its queue is free at once, and the next process pushes it again."""
    subscribe(database)
    (event_id,) = emit(database, "c1")
    metrics = Metrics()
    ending = make_dispatcher(database, consumer, metrics=metrics)

    def cut() -> PushResult:
        ending.stop()
        return PushResult(detail="the worker ends", is_cancelled=True)

    consumer.answers[event_id] = cut
    ending.deliver("s1")
    (row,), (queue,) = deliveries(database), delivery_queues(database)
    blamed = subscription(database)
    consumer.answers.clear()
    make_dispatcher(database, consumer).deliver("s1")

    assert (row.attempts, row.error, row.outcomes, queue.lease_token) == (0, None, [], None)
    assert (blamed.failing_since, blamed.error) == (None, None)
    assert metrics.registry.get_sample_value("meldwatch_push_seconds_count") == 0
    assert consumer.event_ids == [event_id, event_id]


def test_a_handler_that_raised_counts_as_refused(database: Database, consumer: ScriptedConsumer) -> None:
    """Like a consumer that answered 500, not like one without an answer."""
    subscribe(database)
    emit(database, "c1")
    consumer.default_answer = PushResult(detail="the handler raised KeyError", response="'x' (mine.py, line 3)")
    metrics = Metrics()
    make_dispatcher(database, consumer, metrics=metrics).deliver("s1")

    (outcome,) = deliveries(database)[0].outcomes
    assert (outcome["status"], outcome["response"]) == (None, "'x' (mine.py, line 3)")
    assert metrics.registry.get_sample_value("meldwatch_pushes_total", {"result": "refused"}) == 1


def test_a_resume_during_the_last_attempt_is_not_undone(database: Database, consumer: ScriptedConsumer) -> None:
    """The push in progress fails, and counts as the first attempt after the reset."""
    subscribe(database)
    emitted = emit(database, "c1")[0]
    long_ago = datetime.now(UTC) - timedelta(seconds=GIVE_UP_SECONDS + 1)
    with database.write() as session:
        session.exec(update(DeliveryRow).values(tried_at=long_ago, attempts=9))

    def resume() -> PushResult:
        with database.write() as session:
            session.exec(update(DeliveryRow).values(tried_at=None, attempts=0))
        return PushResult(500, detail="answered 500")

    consumer.answers[emitted] = resume
    make_dispatcher(database, consumer).deliver("s1")

    (row,) = deliveries(database)
    assert (row.attempts, row.dead_at) == (1, None)


def test_a_410_of_a_url_that_was_replaced_disables_nothing(database: Database, consumer: ScriptedConsumer) -> None:
    """An operator has set another URL during the push."""
    subscribe(database)
    emitted = emit(database, "c1")[0]

    def replace() -> PushResult:
        with database.write() as session:
            session.exec(update(SubscriptionRow).values(url="https://new.example"))
        consumer.answers[emitted] = lambda: PushResult(200)
        return PushResult(410, detail="answered 410")

    consumer.answers[emitted] = replace
    make_dispatcher(database, consumer).deliver("s1")

    (row,) = deliveries(database)
    assert (subscription(database).disabled_at, row.delivered_at is None) == (None, False)


def test_a_hanging_consumer_holds_half_of_the_threads_at_most(database: Database, consumer: ScriptedConsumer) -> None:
    """Beside one that hangs on all its connections, a healthy one gets everything at once."""
    subscribe(database, "hangs", url="https://hangs.example")
    subscribe(database, "healthy", url="https://healthy.example")
    gate = threading.Event()

    class TwoConsumers(ScriptedConsumer):
        """One hangs, one is healthy."""

        def send(self, *arguments: object) -> PushResult:
            """Acknowledge it, or hang."""
            receipt = super().send(*arguments)  # type: ignore[arg-type]
            if arguments[0] == "https://hangs.example":
                gate.wait(20)
                return PushResult(detail="no complete response within 20 s")
            return receipt

    both = TwoConsumers()
    process = make_dispatcher(database, both, threads=4)
    emit(database, *(f"c{number}" for number in range(8)))
    hanging = [threading.Thread(target=process.deliver, args=("hangs",)) for _ in range(4)]
    for thread in hanging:
        thread.start()
    eventually(lambda: len(both.pushes) == 2, message="two threads that hang")

    process.deliver("healthy")

    urls = [pushed.url for pushed in both.pushes]
    gate.set()
    for thread in hanging:
        thread.join()
    assert (urls.count("https://hangs.example"), urls.count("https://healthy.example")) == (2, 8)


def test_two_that_begin_to_hang_at_once_leave_a_thread(database: Database) -> None:
    """Before anybody can know that they hang, a healthy subscription still gets all its events."""
    gate = threading.Event()

    class ThreeConsumers(ScriptedConsumer):
        """Two hang, one is healthy."""

        def send(self, *arguments: object) -> PushResult:
            """Acknowledge it, or hang."""
            receipt = super().send(*arguments)  # type: ignore[arg-type]
            if arguments[0] != "https://healthy.example":
                gate.wait(20)
            return receipt

    for id_ in ("hangs", "too", "healthy"):
        subscribe(database, id_, url=f"https://{id_}.example")
    consumers = ThreeConsumers()
    process = make_dispatcher(database, consumers, threads=4)
    emit(database, *(f"c{number}" for number in range(8)))
    hanging = [threading.Thread(target=process.deliver, args=(id_,)) for id_ in ("hangs", "too") * 4]
    for thread in hanging:
        thread.start()
    eventually(lambda: {pushed.url for pushed in consumers.pushes} == {"https://hangs.example", "https://too.example"})

    process.deliver("healthy")

    urls = [pushed.url for pushed in consumers.pushes]
    gate.set()
    for thread in hanging:
        thread.join()
    assert urls.count("https://healthy.example") == 8
    assert len(urls) <= 8 + 3


def test_a_failing_subscription_gets_one_thread(database: Database, consumer: ScriptedConsumer) -> None:
    """After a failed push one thread at a time pushes, until a push is acknowledged."""
    subscribe(database)
    emit(database, *(f"c{number}" for number in range(4)))
    consumer.default_answer = FAILED
    process = make_dispatcher(database, consumer)
    process.deliver("s1")
    end_backoff(database)
    at_work: list[int] = []
    lock = threading.Lock()

    def watched() -> PushResult:
        with lock:
            at_work.append(1)
            now = len(at_work)
        threading.Event().wait(0.02)
        with lock:
            at_work.pop()
        return PushResult(500, f"{now} at once")

    consumer.default_answer = watched
    run_in_threads(4, lambda: process.deliver("s1"))

    assert {row.error for row in deliveries(database)} == {"1 at once"}


def test_a_refused_message_is_made_up_for(database: Database, consumer: ScriptedConsumer) -> None:
    """A delivery that is added when a thread has just found nothing due is pushed by that thread."""
    subscribe(database)
    process = make_dispatcher(database, consumer, threads=1)
    (first,) = emit(database, "c1")

    def meanwhile() -> PushResult:
        emit(database, "c2")
        process.deliver("s1")
        return PushResult(200)

    consumer.answers[first] = meanwhile
    process.deliver("s1")

    assert len(consumer.pushes) == 2


def test_a_waiting_subscription_is_notified_in_its_turn(database: Database, consumer: ScriptedConsumer) -> None:
    """Two fail and share one thread: the waiting one is notified when the other releases the thread."""
    for id_ in ("a", "b"):
        subscribe(database, id_)
    consumer.default_answer = FAILED
    notified: list[str] = []
    process = make_dispatcher(database, consumer, notified, threads=2)
    emit(database, "c1")
    process.deliver("a")
    process.deliver("b")
    end_backoff(database)

    def meanwhile() -> PushResult:
        process.deliver("b")
        return FAILED

    consumer.default_answer = meanwhile
    process.deliver("a")

    assert len(consumer.pushes) == 3
    assert notified == ["b"]


def test_a_full_time_slice_ends_with_a_message(database: Database, consumer: ScriptedConsumer) -> None:
    """A subscription with many deliveries is enqueued again after its time slice."""
    subscribe(database)
    emit(database, *(f"c{number}" for number in range(5)))
    notified: list[str] = []
    process = make_dispatcher(database, consumer, notified, time_slice_seconds=0.0)
    process.deliver("s1")

    assert (notified, consumer.pushes) == (["s1"], [])


def test_a_broker_that_is_away_is_left_to_the_scheduler(database: Database, consumer: ScriptedConsumer) -> None:
    """A message that cannot be enqueued is counted, and is no error."""
    subscribe(database)
    metrics = Metrics()

    def away(_ids: object) -> None:
        raise OutOfReachError("The broker does not answer.")

    make_dispatcher(database, consumer, metrics=metrics, notify=away, time_slice_seconds=0.0).deliver("s1")

    assert metrics.registry.get_sample_value("meldwatch_worker_notifications_failed_total") == 1


def test_a_push_costs_one_commit(database: Database, deliver: DeliveryDispatcher) -> None:
    """One commit records a result and takes the next lease: commits are what takes the time."""
    subscribe(database)
    emit(database, *(f"c{number}" for number in range(10)))
    commits: list[object] = []
    event.listen(database.engine, "commit", commits.append)

    deliver.deliver("s1")

    assert len(commits) == 10 + 2  # the first lease, and the last look, which finds nothing


def test_a_locked_queue_is_skipped(postgres_url: str, consumer: ScriptedConsumer) -> None:
    """A transaction that records a result waits for no other queue, which could be a deadlock."""
    database = Database(postgres_url)
    subscribe(database)
    first, second = emit(database, "c1", "c2")
    with ExitStack() as other:

        def lock() -> PushResult:
            session = other.enter_context(database.write())
            session.exec(select(DeliveryQueueRow).where(DeliveryQueueRow.connection_id == "c2").with_for_update()).one()
            return PushResult(200)

        consumer.answers[first] = lock
        make_dispatcher(database, consumer).deliver("s1")
        during = list(consumer.event_ids)
    make_dispatcher(database, consumer).deliver("s1")
    database.close()

    assert (during, consumer.event_ids) == ([first], [first, second])


def test_two_secrets_sign_while_they_are_rotated(
    database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer
) -> None:
    """Both sign until the overlap ends; then the new one alone."""
    now = datetime.now(UTC)
    for id_, hours in (("overlap", 1), ("over", -1)):
        until = (now + timedelta(hours=hours)).isoformat()
        subscribe(database, id_, previous_secrets=[{"sealed": ENCRYPTION.encrypt(SECRET), "until": until}])
    emit(database, "c1")
    for id_ in ("overlap", "over"):
        deliver.deliver(id_)

    assert [len(pushed.headers["webhook-signature"].split(" ")) for pushed in consumer.pushes] == [2, 1]


def test_an_unchanged_read_causes_no_delivery(database: Database) -> None:
    """A read without a change fans out nothing."""
    subscribe(database)
    reader = ScriptedReader()
    refetcher = make_refetcher(database, reader)
    for answer in (found("c1"), found("c1"), found("c1", "DELETED")):
        reader.answers["c1"] = answer
        store(database, body("c1"))
        refetcher.refetch("c1")

    assert [row.position for row in deliveries(database)] == [1, 2]


def test_an_unexpected_error_blocks_no_other_queue(database: Database, consumer: ScriptedConsumer) -> None:
    """After an unexpected error with one delivery, other connections go on, and the delivery is retried."""
    subscribe(database)
    broken, _good = emit(database, "c1", "c2")

    def burst() -> PushResult:
        raise RuntimeError("unexpected")

    consumer.answers[broken] = burst
    process = make_dispatcher(database, consumer)
    process.deliver("s1")
    process.deliver("s1")

    first, second = deliveries(database)
    assert (first.attempts, first.error) == (0, "the push could not be made (RuntimeError)")
    assert second.delivered_at is not None
    assert subscription(database).failing_since is None


def test_a_stopping_process_begins_nothing(
    database: Database, deliver: DeliveryDispatcher, consumer: ScriptedConsumer
) -> None:
    """A process that ends leases no more queues, and enqueues no message."""
    subscribe(database)
    first, _second = emit(database, "c1", "c1")

    def stop() -> PushResult:
        deliver.stop()
        return PushResult(200)

    consumer.answers[first] = stop
    deliver.deliver("s1")

    assert consumer.event_ids == [first]
    assert [queue.lease_token for queue in delivery_queues(database)] == [None]
