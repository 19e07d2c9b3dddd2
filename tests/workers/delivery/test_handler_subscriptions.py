import itertools
import json
import threading

import pytest
from sqlmodel import col, select

from runtime.database import Database
from runtime.errors import SettingsError
from schemas.handler_protocol import Handler
from schemas.tables import AuditRow, SubscriptionRow
from tests.support.processes.handler_processes import ScriptedHandlers
from tests.support.scripted_consumer import (
    ScriptedConsumer,
    deliveries,
    emit,
    make_dispatcher,
    run_in_threads,
    subscribe,
)
from workers.delivery.handler_subscriptions import register_handlers
from workers.delivery.transport import DeliveryTransport

NUMBERS = itertools.count(1)
NOTE = Handler(name="mine.note", types=("connection.status_changed",), seconds=20)
ALL = Handler(name="mine.all", types=(), seconds=5)


def registered(database: Database, *handlers: Handler) -> list[SubscriptionRow]:
    """Register handlers as a starting process does; return all subscriptions by their names."""
    with database.write() as session:
        register_handlers(database, session, handlers, new_id=lambda: f"id-{next(NUMBERS)}")
    with database.read() as session:
        return list(session.exec(select(SubscriptionRow).order_by(col(SubscriptionRow.name))))


def test_a_new_handler_gets_events_from_now_on(database: Database) -> None:
    """It is a subscription like others, without a secret, and gets the events appended from then on."""
    emit(database, "c1")
    everything, note = registered(database, NOTE, ALL)
    (later,) = emit(database, "c1")

    assert (note.name, note.url, note.types, note.secret, note.after_position) == (
        "mine.note",
        "python:mine.note",
        ["connection.status_changed"],
        "",
        1,
    )
    assert (everything.types, everything.paused_at) == ([], None)
    assert {(row.event_id, row.subscription_id) for row in deliveries(database)} == {
        (later, note.id),
        (later, everything.id),
    }


def test_existing_subscriptions_are_kept(database: Database) -> None:
    """However often processes start: id, state and deliveries are unchanged, also of removed handlers."""
    before = registered(database, NOTE, ALL)
    emit(database, "c1")
    after = registered(database, NOTE)

    assert [row.model_dump() for row in after] == [row.model_dump() for row in before]
    assert len(deliveries(database)) == 2


def test_types_are_as_the_code_has_them(database: Database) -> None:
    """Pending deliveries are kept; new events are fanned out by the new types."""
    registered(database, NOTE)
    emit(database, "c1")
    (row,) = registered(database, NOTE.model_copy(update={"types": ("connection.primary_duplicate_moved",)}))
    emit(database, "c1")
    emit(database, "c1", type_="connection.primary_duplicate_moved")

    assert row.types == ["connection.primary_duplicate_moved"]
    assert [each.position for each in deliveries(database)] == [1, 3]


def test_each_change_is_audited_once(database: Database) -> None:
    """One audit entry for its creation and one for each change of its types; the actor is no token."""
    changed = NOTE.model_copy(update={"types": ()})
    for handlers in ([NOTE], [NOTE], [changed], [changed]):
        (row,) = registered(database, *handlers)
    with database.read() as session:
        entries = session.exec(select(AuditRow).order_by(col(AuditRow.id))).all()

    assert [(entry.who, entry.act, entry.subject, entry.details) for entry in entries] == [
        ("MELDWATCH_HANDLERS", "subscription.created", row.id, {"name": "mine.note", "types": list(NOTE.types)}),
        ("MELDWATCH_HANDLERS", "subscription.changed", row.id, {"name": "mine.note", "types": []}),
    ]


def test_several_that_start_at_once_make_one(database: Database) -> None:
    """Beside a worker that appends events: each event after the row's position has one delivery."""
    is_over = threading.Event()

    def append() -> None:
        while not is_over.is_set():
            emit(database, "c1")

    writer = threading.Thread(target=append)
    writer.start()
    run_in_threads(6, lambda: registered(database, NOTE, ALL))
    emit(database, "c1")
    is_over.set()
    writer.join()
    (last,) = emit(database, "c1")

    rows = registered(database)
    pending = [(row.subscription_id, row.position) for row in deliveries(database)]
    end = max(position for _id, position in pending)
    assert [row.name for row in rows] == ["mine.all", "mine.note"]
    assert sorted(pending) == sorted(
        (row.id, position) for row in rows for position in range(row.after_position + 1, end + 1)
    )
    assert last in {row.event_id for row in deliveries(database)}


def test_a_name_of_another_subscription_is_a_settings_error(database: Database) -> None:
    """An operator gave the name to a consumer: nothing changes, and the error says what to do."""
    subscribe(database, name="mine.note", url="https://consumer.example/")

    with pytest.raises(SettingsError, match=r"MELDWATCH_HANDLERS has mine\.note.*Rename the function"):
        registered(database, ALL, NOTE)
    assert [row.url for row in registered(database)] == ["https://consumer.example/"]


def test_a_handler_is_called_like_any_subscription(database: Database) -> None:
    """By the worker, in the order of its connection."""
    (row,) = registered(database, ALL)
    events = emit(database, "c1", "c1")
    handlers = ScriptedHandlers()
    make_dispatcher(database, DeliveryTransport(http=ScriptedConsumer(), handlers=handlers)).deliver(row.id)

    assert [(name, json.loads(body)["id"]) for name, body in handlers.calls] == [("mine.all", id_) for id_ in events]
