import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, update
from sqlmodel import col, select

from runtime.database import Database
from runtime.queues.deliveries import lock_feed
from schemas import tables
from schemas.push import PushResult
from schemas.tables import DeliveryQueueRow, DeliveryRow, SubscriptionRow
from service.replay.event_replay import append_next_deliveries
from service.replay.step import ReplayStep
from tests.service.conftest import Api
from tests.service.replay.replay_helpers import row_of, runner_on, started
from tests.support.random_rounds import rounds
from tests.support.scripted_consumer import (
    ScriptedConsumer,
    deliveries,
    delivery_queues,
    emit,
    make_dispatcher,
    subscribe,
)

EXAMPLES = settings(max_examples=rounds(12), suppress_health_check=[HealthCheck.function_scoped_fixture])
IDS = ("a", "b", "c")
MOVED = "connection.primary_duplicate_moved"


def replay(database: Database, subscription: str = "s1", **wish: Any) -> str:
    return started(database, "events", subscription=subscription, **wish).id


def go_on(database: Database, replay_id: str, most_events: int) -> ReplayStep:
    """Do one step, as a runner does."""
    with database.write() as session:
        row = session.get_one(tables.ReplayRow, replay_id)
        step = append_next_deliveries(database, session, row, most_events)
        row.after, row.done = step.after, row.done + step.count
        row.finished_at = row.created_at if step.is_last else None
    return step


def whole(database: Database, **wish: Any) -> list[tuple[int, str | None]]:
    """Replay events in one process; return all deliveries: position and replay, in the order of sending."""
    replay_id = replay(database, **wish)
    row = runner_on(database).run(replay_id)
    assert row.done == row.total
    return [(row.position, "again" if row.replay_id == replay_id else row.replay_id) for row in deliveries(database)]


def test_events_are_sent_again_with_their_replay(database: Database) -> None:
    """The same events with the same ids, in order, each with the header that marks a replay."""
    subscribe(database)
    events = emit(database, "c1", "c1")
    consumer = ScriptedConsumer()
    make_dispatcher(database, consumer).deliver("s1")
    replay_id = replay(database)
    runner_on(database).run(replay_id)
    make_dispatcher(database, consumer).deliver("s1")

    assert consumer.event_ids == [*events, *events]
    assert [pushed.headers.get("meldwatch-replay") for pushed in consumer.pushes] == [None, None, replay_id, replay_id]
    assert consumer.pushes[0].body == consumer.pushes[2].body
    assert [(lane.due_at, lane.lease_token) for lane in delivery_queues(database)] == [(None, None)]


@pytest.mark.parametrize(
    ("wish", "positions"),
    [
        ({}, [1, 3, 4]),
        ({"after": 1}, [3, 4]),
        ({"until_position": 3}, [1, 3]),
        ({"type": MOVED}, [2]),
        ({"type": "connection.status_changed"}, [1, 3, 4]),
        ({"connection": "c2"}, [4]),
        ({"connection": "none"}, []),
        ({"until": "2026-01-02T00:00:00Z"}, []),
        ({"since": "2026-01-02T00:00:00Z"}, [1, 3, 4]),
    ],
)
def test_a_type_overrides_those_of_the_subscription(
    database: Database, wish: dict[str, Any], positions: list[int]
) -> None:
    """Events of the subscription's types are sent, unless the replay names a type."""
    emit(database, "c1")
    emit(database, "c1", type_=MOVED)
    emit(database, "c1", "c2")
    subscribe(database, types=["connection.status_changed"])

    assert whole(database, **wish) == [(position, "again") for position in positions]


def test_later_events_are_not_replayed(database: Database) -> None:
    """A replay ends with the event that was the last one when it was created, however long it takes."""
    subscribe(database)
    emit(database, "c1")
    replay_id = replay(database)
    emit(database, "c1", "c2")

    runner_on(database).run(replay_id)

    assert [(row.connection_id, row.position, row.replay_id) for row in deliveries(database)] == [
        ("c1", 1, None),
        ("c1", 2, None),
        ("c2", 3, None),
        ("c1", 1, replay_id),
    ]


@pytest.mark.parametrize("rest", ["paused_at", "disabled_at"])
def test_a_paused_subscription_gets_the_events_later(database: Database, rest: str) -> None:
    """Nothing is dropped: deliveries of a replay wait like all others."""
    subscribe(database)
    events = emit(database, "c1")
    consumer = ScriptedConsumer()
    with database.write() as session:
        session.exec(update(SubscriptionRow).values({rest: database.now()}))
    whole(database)
    make_dispatcher(database, consumer).deliver("s1")
    nothing = list(consumer.pushes)
    with database.write() as session:
        session.exec(update(SubscriptionRow).values({rest: None}))
    make_dispatcher(database, consumer).deliver("s1")

    assert nothing == []
    assert consumer.event_ids == events * 2


def test_the_removal_of_the_subscription_ends_the_replay(database: Database) -> None:
    """If its subscription is removed, the replay ends with an error."""
    subscribe(database)
    emit(database, "c1")
    replay_id = replay(database)
    with database.write() as session:
        lock_feed(session)
        for table in (DeliveryQueueRow, DeliveryRow, SubscriptionRow):
            session.exec(delete(table))

    row = runner_on(database).run(replay_id)

    assert (row.error, row.done, row.finished_at is not None) == ("The subscription was removed.", 0, True)
    assert deliveries(database) == []


def test_a_redriven_delivery_keeps_its_replay(api: Api) -> None:
    """A dead delivery of a replay that is redriven keeps its header and its place before pending deliveries."""
    database = api.database
    subscribe(database)
    emit(database, "c1", "c1")
    replay_id = replay(database)
    runner_on(database).run(replay_id)
    consumer = ScriptedConsumer()
    make_dispatcher(database, consumer).deliver("s1")
    with database.write() as session:
        first = select(DeliveryRow.id).where(DeliveryRow.replay_id == replay_id).order_by(col(DeliveryRow.id)).limit(1)
        dead = update(DeliveryRow).where(col(DeliveryRow.id) == first.scalar_subquery())
        session.exec(dead.values(delivered_at=None, dead_at=database.now()))
    emit(database, "c1")
    assert api.admin.post("/api/subscriptions/s1/redrive").json()["redriven"] == 1
    make_dispatcher(database, consumer).deliver("s1")

    again = consumer.pushes[4:]
    assert [pushed.event_id for pushed in again] == ["event-1", "event-3"]
    assert [pushed.headers.get("meldwatch-replay") for pushed in again] == [replay_id, None]


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), st.sampled_from(IDS)),
        st.tuples(st.just("begin"), st.sampled_from(["s1", "s2"])),
        st.tuples(st.just("step"), st.integers(1, 4)),
        st.tuples(st.just("push"), st.sampled_from(["s1", "s2"])),
        st.tuples(st.just("fail"), st.booleans()),
    ),
    max_size=25,
)


@EXAMPLES
@given(acts=ACTS)
def test_replayed_events_stand_together_and_in_order(database: Database, acts: list[tuple[str, Any]]) -> None:
    """In each delivery queue: first the earlier deliveries, then all of the replay in order, then the later ones.

    Whatever is emitted, replayed, interrupted, pushed and refused in whatever order; nothing is lost or doubled.
    """
    play = Play(database)
    for name, argument in acts:
        getattr(play, name)(argument)
    play.end()

    assert play.sent() == play.owed
    assert [lane.due_at for lane in delivery_queues(database)] == [None] * len(delivery_queues(database))


class Play:
    """A history of events, and the deliveries that each queue should have."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.write() as session:
            for table in (DeliveryRow, DeliveryQueueRow, SubscriptionRow, tables.EventRow, tables.ReplayRow):
                session.exec(delete(table))
            session.exec(update(tables.FeedCounterRow).values(value=0))
        for id_ in ("s1", "s2"):
            subscribe(database, id_)
        self.events: list[tuple[str, str]] = []
        self.owed: dict[tuple[str, str], list[tuple[str, str | None]]] = defaultdict(list)
        self.running: list[tuple[str, str, int]] = []
        self.consumers = {id_: ScriptedConsumer() for id_ in ("s1", "s2")}

    def emit(self, connection_id: str) -> None:
        """Append an event for both consumers."""
        (event_id,) = emit(self.database, connection_id)
        self.events.append((connection_id, event_id))
        for id_ in ("s1", "s2"):
            self.owed[id_, connection_id].append((event_id, None))

    def begin(self, id_: str) -> None:
        """Create a replay."""
        self.running.append((replay(self.database, id_), id_, len(self.events)))

    def step(self, most: int) -> None:
        """Do one step of the replay that waited longest."""
        if not self.running:
            return
        replay_id, id_, end = self.running.pop(0)
        before = row_of(self.database, replay_id).after
        made = go_on(self.database, replay_id, most)
        for connection_id, event_id in sorted(self.events[:end], key=lambda each: each[0]):
            if before < connection_id <= made.after:
                self.owed[id_, connection_id].append((event_id, replay_id))
        if not made.is_last:
            self.running.append((replay_id, id_, end))

    def push(self, id_: str) -> None:
        """Run a worker."""
        make_dispatcher(self.database, self.consumers[id_]).deliver(id_)

    def fail(self, is_failing: bool) -> None:  # noqa: FBT001 - drawn
        """Let the consumers fail from now on, or acknowledge."""
        for consumer in self.consumers.values():
            consumer.default_answer = PushResult(500, "no") if is_failing else PushResult(200)

    def end(self) -> None:
        """Run all replays and deliveries to their end."""
        while self.running:
            self.step(2)
        self.fail(is_failing=False)
        with self.database.write() as session:
            session.exec(
                update(DeliveryQueueRow)
                .where(col(DeliveryQueueRow.due_at).is_not(None))
                .values(due_at=self.database.now(-1))
            )
        for id_ in self.consumers:
            self.push(id_)

    def sent(self) -> dict[tuple[str, str], list[tuple[str, str | None]]]:
        """Return what each queue was sent, without repeats of failed attempts."""
        sent: dict[tuple[str, str], list[tuple[str, str | None]]] = defaultdict(list)
        subjects = {event_id: connection_id for connection_id, event_id in self.events}
        for id_, consumer in self.consumers.items():
            for pushed in consumer.pushes:
                told = (pushed.event_id, pushed.headers.get("meldwatch-replay"))
                lane = sent[id_, subjects[pushed.event_id]]
                if lane[-1:] != [told]:
                    lane.append(told)
        return sent


def test_live_events_never_come_between_replayed_ones(database: Database) -> None:
    """While others append to the feed at full speed, no live event gets between the replayed events of a connection."""
    subscribe(database)
    emit(database, *IDS * 20)
    ended = threading.Event()

    def append() -> None:
        while not ended.is_set():
            emit(database, *IDS)

    together(append, lambda: (runner_on(database).run(replay(database)), ended.set()))

    for id_ in IDS:
        lane = [row for row in deliveries(database) if row.connection_id == id_]
        places = [number for number, row in enumerate(lane) if row.replay_id is not None]
        again = [lane[number].position for number in places]
        live = [row.position for row in lane if row.replay_id is None]
        assert places == list(range(places[0], places[-1] + 1))
        assert again == live[: len(again)]
        assert live == sorted(live)


def together(*works: Callable[[], object]) -> None:
    """Run functions in a thread each, and wait for all."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
