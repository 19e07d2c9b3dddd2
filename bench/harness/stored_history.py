"""A past for the bench: many connections with the same ten observations each, and all that follows from them.

One connection's rows are made by the program's own fold; the others are copies with ids of their own.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from schemas.meld.connection import Snapshot
from schemas.tables import ConnectionRow, EventRow, ObservationRow
from workers.events.event_factory import EVENT_NAMESPACE
from workers.history.projection import step

EACH = 10
"""Observations of each connection."""

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PATTERN = "pattern-connection"
NUMBER = 900_000_000_000
"""In the pattern, the id of its first observation."""


class Pattern(NamedTuple):
    """The rows of one connection."""

    mirror: ConnectionRow
    observations: list[ObservationRow]
    events: list[EventRow]


def fill(url: str, connections: int) -> int:
    """Store the past of so many connections; return how many events they have."""
    pattern = _pattern()
    with psycopg.connect(url) as server:
        _copy(server, "observation", pattern.observations, connections, _observation)
        _copy(server, "event", pattern.events, connections, _event(pattern))
        _copy(server, "connection", [pattern.mirror], connections, lambda _row, id_, _number, _place: {"id": id_})
        server.execute("UPDATE feed_counter SET value = %s WHERE name = 'feed'", [connections * len(pattern.events)])
        server.execute("SELECT setval('observation_id_seq', %s)", [connections * EACH])
    with psycopg.connect(url, autocommit=True) as server:
        server.execute("VACUUM ANALYZE")
    return connections * len(pattern.events)


def _pattern() -> Pattern:
    row: ConnectionRow | None = None
    observations, events = [], []
    for number in range(EACH):
        observations.append(_seen(number))
        made = step(row, observations[-1])
        row = made.mirror
        events += made.events
    assert row is not None
    return Pattern(row, observations, events)


def _seen(number: int) -> ObservationRow:
    """Return what a read saw: at every other, another status; in between an aggregation, which tells nothing."""
    began_at = BEGAN + timedelta(hours=number)
    document = {
        "id": PATTERN,
        "accountId": "bench-account",
        "customerId": "bench-customer",
        "institutionName": "Bench Bank",
        "status": "ACTIVE" if number % 4 < 2 else "RECONNECT_REQUIRED",
        "products": ["BALANCES", "TRANSACTIONS", "OWNERS"],
        "regions": ["US"],
        "serviceProviderDetails": {"serviceProvider": "PLAID", "itemId": "item", "padding": "x" * 600},
        "successfullyAggregatedAt": began_at.isoformat(),
    }
    return ObservationRow(
        id=NUMBER + number,
        connection_id=PATTERN,
        account_id="bench-account",
        generation=number + 1,
        trigger="webhook",
        webhook_event_ids=[f"webhook-{number}"],
        began_at=began_at,
        ended_at=began_at + timedelta(seconds=1),
        found=True,
        digest=Snapshot.from_document(document).digest,
        document=document,
    )


Values = Callable[[Any, str, int, int], dict[str, Any]]
"""What is a copy's own: of a row, told the id and the number of its connection, and its place among its like."""


def _observation(_row: ObservationRow, _id: str, number: int, place: int) -> dict[str, Any]:
    return {"id": number * EACH + place + 1}


def _event(pattern: Pattern) -> Values:
    digests = {row.id: (row.began_at.isoformat(), row.digest) for row in pattern.observations}

    def values(row: EventRow, id_: str, number: int, place: int) -> dict[str, Any]:
        began_at, digest = digests[row.observation_id]
        observation_id = number * EACH + row.observation_id - NUMBER + 1
        return {
            "position": number * len(pattern.events) + place + 1,
            "id": str(uuid.uuid5(EVENT_NAMESPACE, f"{id_}\n{began_at}\n{digest}\n{row.type}")),
            "observation_id": observation_id,
            "data": json.dumps(row.data).replace(PATTERN, id_).replace(str(row.observation_id), str(observation_id)),
        }

    return values


def _copy(
    server: psycopg.Connection[Any], table: str, pattern: Iterable[Any], connections: int, values: Values
) -> None:
    made = [(row, row.model_dump()) for row in pattern]
    names = list(made[0][1])
    columns = ", ".join(f'"{name}"' for name in names)
    with server.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
        for row in _copies(made, connections, values):
            copy.write_row([row[name] for name in names])


def _copies(pattern: list[tuple[Any, dict[str, Any]]], connections: int, values: Values) -> Iterator[dict[str, Any]]:
    shapes = [(row, {name: _text(value) for name, value in dumped.items()}) for row, dumped in pattern]
    for number in range(connections):
        id_ = f"connection-{number:07}"
        for place, (row, shape) in enumerate(shapes):
            copied = {
                name: value.replace(PATTERN, id_) if isinstance(value, str) else value for name, value in shape.items()
            }
            yield {**copied, **values(row, id_, number, place)}


def _text(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict | list) else value
