"""A stored history for benchmarks: many connections with ten observations each, and their events.

The program's projection creates the rows of one connection; those of the others are copies with other ids.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import inspect

from schemas.meld.connection import Snapshot
from schemas.tables import ConnectionRow, EventRow, ObservationRow
from workers.events.event_factory import EVENT_NAMESPACE
from workers.history.projection import project_observation

OBSERVATIONS_PER_CONNECTION = 10
"""Observations of each connection."""

FIRST_READ_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PATTERN_CONNECTION_ID = "pattern-connection"
PATTERN_FIRST_ID = 900_000_000_000
"""The id of the pattern's first observation."""


class PatternRows(NamedTuple):
    """The rows of the connection that is copied."""

    mirror: ConnectionRow
    observations: list[ObservationRow]
    events: list[EventRow]


def store_history(url: str, connections: int) -> int:
    """Store the history of that many connections; return the number of their events."""
    pattern = _pattern()
    with psycopg.connect(url) as server:
        _copy(server, "observation", pattern.observations, connections, _observation)
        _copy(server, "event", pattern.events, connections, _event(pattern))
        _copy(server, "connection", [pattern.mirror], connections, lambda _row, id_, _number, _place: {"id": id_})
        server.execute("UPDATE feed_counter SET value = %s WHERE name = 'feed'", [connections * len(pattern.events)])
        server.execute("SELECT setval('observation_id_seq', %s)", [connections * OBSERVATIONS_PER_CONNECTION])
    with psycopg.connect(url, autocommit=True) as server:
        server.execute("VACUUM ANALYZE")
    return connections * len(pattern.events)


def _pattern() -> PatternRows:
    row: ConnectionRow | None = None
    observations, events = [], []
    for number in range(OBSERVATIONS_PER_CONNECTION):
        observations.append(_create_observation(number))
        made = project_observation(row, observations[-1])
        row = made.mirror
        events += made.events
    assert row is not None
    return PatternRows(row, observations, events)


def _create_observation(number: int) -> ObservationRow:
    """Return one observation: every other has another status, those between only another aggregation time."""
    began_at = FIRST_READ_AT + timedelta(hours=number)
    document = {
        "id": PATTERN_CONNECTION_ID,
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
        id=PATTERN_FIRST_ID + number,
        connection_id=PATTERN_CONNECTION_ID,
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


OwnValues = Callable[[Any, str, int, int], dict[str, Any]]
"""Returns the values that differ in a copy, from a row, its connection's id and number, and its index."""


def _observation(_row: ObservationRow, _id: str, number: int, place: int) -> dict[str, Any]:
    return {"id": number * OBSERVATIONS_PER_CONNECTION + place + 1}


def _event(pattern: PatternRows) -> OwnValues:
    digests = {row.id: (row.began_at.isoformat(), row.digest) for row in pattern.observations}

    def values(row: EventRow, id_: str, number: int, place: int) -> dict[str, Any]:
        began_at, digest = digests[row.observation_id]
        observation_id = number * OBSERVATIONS_PER_CONNECTION + row.observation_id - PATTERN_FIRST_ID + 1
        return {
            "position": number * len(pattern.events) + place + 1,
            "id": str(uuid.uuid5(EVENT_NAMESPACE, f"{id_}\n{began_at}\n{digest}\n{row.type}")),
            "observation_id": observation_id,
            "data": json.dumps(row.data)
            .replace(PATTERN_CONNECTION_ID, id_)
            .replace(str(row.observation_id), str(observation_id)),
        }

    return values


def _copy(
    server: psycopg.Connection[Any], table: str, pattern: Iterable[Any], connections: int, values: OwnValues
) -> None:
    made = [(row, row.model_dump()) for row in pattern]
    names = list(made[0][1])
    table_columns = inspect(type(made[0][0])).columns  # an attribute may have another name than its column
    columns = ", ".join(f'"{table_columns[name].name}"' for name in names)
    with server.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
        for row in _copies(made, connections, values):
            copy.write_row([row[name] for name in names])


def _copies(pattern: list[tuple[Any, dict[str, Any]]], connections: int, values: OwnValues) -> Iterator[dict[str, Any]]:
    shapes = [(row, {name: _encode(value) for name, value in dumped.items()}) for row, dumped in pattern]
    for number in range(connections):
        id_ = f"connection-{number:07}"
        for place, (row, shape) in enumerate(shapes):
            copied = {
                name: value.replace(PATTERN_CONNECTION_ID, id_) if isinstance(value, str) else value
                for name, value in shape.items()
            }
            yield {**copied, **values(row, id_, number, place)}


def _encode(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict | list) else value
