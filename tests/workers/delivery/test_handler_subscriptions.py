import itertools
import json
import threading

import pytest
from sqlmodel import col, select

from runtime.database import Database
from runtime.errors import SettingsError
from schemas.handler_protocol import Handler
from schemas.tables import AuditRow, SubscriptionRow
from tests.support.handler_processes import ScriptedHandlers
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


def enlisted(database: Database, *handlers: Handler) -> list[SubscriptionRow]:
    """Enlist as a process that starts does; return all subscriptions by their names."""
    with database.write() as session:
        register_handlers(database, session, handlers, new_id=lambda: f"id-{next(NUMBERS)}")
    with database.read() as session:
        return list(session.exec(select(SubscriptionRow).order_by(col(SubscriptionRow.name))))


def test_a_new_handler_begins_with_what_comes(database: Database) -> None:
    """It is a subscription like others, without a secret, and is owed what is appended from then on."""
    emit(database, "c1")
    everything, note = enlisted(database, NOTE, ALL)
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


def test_what_is_there_stays(database: Database) -> None:
    """However often processes start: id, state and what is owed; also of handlers that are gone."""
    before = enlisted(database, NOTE, ALL)
    emit(database, "c1")
    after = enlisted(database, NOTE)

    assert [row.model_dump() for row in after] == [row.model_dump() for row in before]
    assert len(deliveries(database)) == 2


def test_types_are_as_the_code_has_them(database: Database) -> None:
    """What is owed already stays owed; what comes is owed by the new types."""
    enlisted(database, NOTE)
    emit(database, "c1")
    (row,) = enlisted(database, NOTE.model_copy(update={"types": ("connection.primary_duplicate_moved",)}))
    emit(database, "c1")
    emit(database, "c1", type_="connection.primary_duplicate_moved")

    assert row.types == ["connection.primary_duplicate_moved"]
    assert [each.position for each in deliveries(database)] == [1, 3]


def test_each_act_is_noted_once(database: Database) -> None:
    """That it was made, and each time that its types were changed; by nobody's token."""
    changed = NOTE.model_copy(update={"types": ()})
    for handlers in ([NOTE], [NOTE], [changed], [changed]):
        (row,) = enlisted(database, *handlers)
    with database.read() as session:
        acts = session.exec(select(AuditRow).order_by(col(AuditRow.id))).all()

    assert [(act.who, act.act, act.subject, act.details) for act in acts] == [
        ("MELDWATCH_HANDLERS", "subscription.created", row.id, {"name": "mine.note", "types": list(NOTE.types)}),
        ("MELDWATCH_HANDLERS", "subscription.changed", row.id, {"name": "mine.note", "types": []}),
    ]


def test_several_that_start_at_once_make_one(database: Database) -> None:
    """Beside a worker that appends: each event behind the row's position is owed, once."""
    is_over = threading.Event()

    def append() -> None:
        while not is_over.is_set():
            emit(database, "c1")

    writer = threading.Thread(target=append)
    writer.start()
    run_in_threads(6, lambda: enlisted(database, NOTE, ALL))
    emit(database, "c1")
    is_over.set()
    writer.join()
    (last,) = emit(database, "c1")

    rows = enlisted(database)
    owed = [(row.subscription_id, row.position) for row in deliveries(database)]
    end = max(position for _id, position in owed)
    assert [row.name for row in rows] == ["mine.all", "mine.note"]
    assert sorted(owed) == sorted(
        (row.id, position) for row in rows for position in range(row.after_position + 1, end + 1)
    )
    assert last in {row.event_id for row in deliveries(database)}


def test_a_name_that_is_anothers_is_a_setting_to_mend(database: Database) -> None:
    """An operator gave it to a consumer; nothing is changed, and it is said what to do."""
    subscribe(database, name="mine.note", url="https://consumer.example/")

    with pytest.raises(SettingsError, match=r"MELDWATCH_HANDLERS has mine\.note.*Rename the function"):
        enlisted(database, ALL, NOTE)
    assert [row.url for row in enlisted(database)] == ["https://consumer.example/"]


def test_a_handler_is_called_like_any_subscription(database: Database) -> None:
    """By the worker, in the order of its connection."""
    (row,) = enlisted(database, ALL)
    events = emit(database, "c1", "c1")
    handlers = ScriptedHandlers()
    make_dispatcher(database, DeliveryTransport(http=ScriptedConsumer(), handlers=handlers)).deliver(row.id)

    assert [(name, json.loads(body)["id"]) for name, body in handlers.calls] == [("mine.all", id_) for id_ in events]
