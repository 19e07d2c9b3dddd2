import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert
from sqlmodel import SQLModel

from runtime.database import Database
from schemas.api_resources import get_webhook_state
from schemas.replays import EventFilter, WebhookFilter
from schemas.tables import EventRow, WebhookRow
from service.replay.selection import ReplaySelection, get_newest, preview_resend, select_events, select_webhooks
from tests.support import row_factory
from tests.support.random_rounds import rounds

EXAMPLES = settings(max_examples=rounds(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
IDS = ("", "A", "a", "a ", "b", "é", "日本")
TYPES = ("connection.status_changed", "connection.status_reason_changed")
TIMES = [row_factory.TIME + timedelta(hours=hours) for hours in range(3)]
_NUMBERS = itertools.count(1)


def fill(database: Database, table: type[SQLModel], made: Sequence[SQLModel]) -> None:
    """Replace all rows of a table."""
    values = [row.model_dump() for row in made]
    with database.write() as session:
        session.exec(delete(table))
        if values:
            unset = {"id"} if values[0].get("id", 0) is None else set()
            rows_ = [{name: value for name, value in each.items() if name not in unset} for each in values]
            session.connection().execute(insert(table), rows_)


def selected(database: Database, selection: ReplaySelection, look: int) -> list[tuple[str, int]]:
    """Scan a selection, so many connections at a time."""
    found: list[tuple[str, int]] = []
    after = ""
    while True:
        with database.read() as session:
            ahead = selection.scan(session, after, look)
        found += [(each.connection_id, each.matches) for each in ahead if each.matches]
        if len(ahead) < look:
            return found
        after = ahead[-1].connection_id


def count(ids: Sequence[str]) -> dict[str, int]:
    return {id_: ids.count(id_) for id_ in sorted(set(ids))}


# Without the connection of no name, which none has: a cursor begins there.
MAYBE_IDS = st.sampled_from([None, *IDS[1:]])


@st.composite
def webhooks(draw: st.DrawFn) -> WebhookRow:
    """Return a stored webhook."""
    step = draw(st.sampled_from(["processed_at", "ignored_at", "failed_at", None]))
    return row_factory.webhook(
        f"w{next(_NUMBERS)}",
        connection_id=draw(MAYBE_IDS),
        type=draw(st.sampled_from(["x", "y"])),
        received_at=draw(st.sampled_from(TIMES)),
        **({step: row_factory.TIME} if step else {}),
    )


def maybe(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, None, *values])


@EXAMPLES
@given(
    made=st.lists(webhooks(), max_size=25),
    wish=st.builds(
        WebhookFilter,
        connection=maybe("a", "A"),
        type=maybe("x"),
        state=maybe("processed", "ignored", "failed", "pending"),
        since=maybe(*TIMES),
        until=maybe(*TIMES),
    ),
    end=st.integers(0, 25),
    look=st.integers(1, 4),
)
def test_a_selection_of_webhooks_equals_a_plain_filter(
    database: Database, made: list[WebhookRow], wish: WebhookFilter, end: int, look: int
) -> None:
    """Each connection with a matching webhook, once, in the order of ids, whatever the size of a scan."""
    for number, row in enumerate(made, start=1):
        row.id = number
    fill(database, WebhookRow, made)
    fitting = [
        row.connection_id
        for row in made
        if row.connection_id is not None
        and (row.id or 0) <= end
        and wish.connection in {None, row.connection_id}
        and wish.type in {None, row.type}
        and wish.state in {None, get_webhook_state(row)}
        and (wish.since is None or row.received_at >= wish.since)
        and (wish.until is None or row.received_at < wish.until)
    ]

    found = selected(database, select_webhooks(wish, newest=end), look)

    assert found == [(id_, 1) for id_ in count(fitting)]


@st.composite
def events(draw: st.DrawFn) -> EventRow:
    """Return an event without a position."""
    return row_factory.event(
        0,
        draw(st.sampled_from(IDS[1:])),
        type=draw(st.sampled_from(TYPES)),
        time=draw(st.sampled_from(TIMES)),
    )


@EXAMPLES
@given(
    made=st.lists(events(), max_size=25),
    wish=st.builds(
        EventFilter,
        connection=maybe("a", "A"),
        type=maybe(*TYPES),
        since=maybe(*TIMES),
        until=maybe(*TIMES),
        after=maybe(1, 5),
        until_position=maybe(3, 100),
    ),
    types=st.sampled_from([(), TYPES, TYPES[:1]]),
    bounds=st.tuples(st.integers(0, 25), st.integers(1, 4)),
)
def test_a_selection_of_events_equals_a_plain_filter(
    database: Database, made: list[EventRow], wish: EventFilter, types: Sequence[str], bounds: tuple[int, int]
) -> None:
    """The number of matching events of each connection; without a type, the subscription's types apply."""
    end, look = bounds
    for number, row in enumerate(made, start=1):
        row.position, row.id, row.sequence = number, f"e{number}", number
    fill(database, EventRow, made)
    fitting = [
        row
        for row in made
        if row.position <= min(end, wish.until_position or end)
        and row.position > (wish.after or 0)
        and row.type in ([wish.type] if wish.type else types or TYPES)
        and wish.connection in {None, row.connection_id}
        and (wish.since is None or row.time >= wish.since)
        and (wish.until is None or row.time < wish.until)
    ]

    selection = select_events(wish, newest=end, types=types)

    assert selected(database, selection, look) == [*count([row.connection_id for row in fitting]).items()]
    with database.read() as session:
        told = preview_resend(session, selection, IDS)
    assert [(each.connection_id, each.type, each.events) for each in told] == [
        (*key, number) for key, number in sorted(count_pairs(fitting).items())
    ]
    assert [(each.first_position, each.last_position) for each in told] == [
        (min(places), max(places))
        for key in sorted(count_pairs(fitting))
        for places in [[row.position for row in fitting if (row.connection_id, row.type) == key]]
    ]


def count_pairs(found: Sequence[EventRow]) -> dict[tuple[str, str], int]:
    pairs = [(row.connection_id, row.type) for row in found]
    return {pair: pairs.count(pair) for pair in pairs}


def test_one_webhook_is_selected_by_its_event_id(database: Database) -> None:
    """Meld's event id names one webhook, hence one connection; an unknown id names none."""
    row_factory.store(
        database, row_factory.webhook("e1", connection_id="a"), row_factory.webhook("e2", connection_id="b")
    )
    with database.read() as session:
        end = get_newest(session, "webhooks")

    assert selected(database, select_webhooks(WebhookFilter(event_id="e2"), newest=end), 5) == [("b", 1)]
    assert selected(database, select_webhooks(WebhookFilter(event_id="none"), newest=end), 5) == []


def test_an_empty_database_selects_nothing(database: Database) -> None:
    """If nothing is stored, nothing is found, without an error."""
    with database.read() as session:
        ends = get_newest(session, "webhooks"), get_newest(session, "events")
    empty = select_webhooks(WebhookFilter(), newest=ends[0]), select_events(EventFilter(), newest=ends[1], types=())

    assert ends == (0, 0)
    assert [list(each.batches(database)) for each in empty] == [[[]], [[]]]


@pytest.mark.parametrize("size", [199, 200, 201])
def test_batches_neither_overlap_nor_leave_a_gap(database: Database, size: int) -> None:
    """No connection is missing or doubled between two scans."""
    fill(database, WebhookRow, [row_factory.webhook(connection_id=f"c{number:04}") for number in range(size)])
    with database.read() as session:
        selection = select_webhooks(WebhookFilter(), newest=get_newest(session, "webhooks"))

    found = [each.connection_id for chunk in selection.batches(database) for each in chunk]

    assert found == [f"c{number:04}" for number in range(size)]
