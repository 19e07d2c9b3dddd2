"""Figure timeline: latency of the pages of one connection's timeline in very large tables."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import psycopg

from bench.harness.api_client import ApiClient
from bench.harness.service import Service, web
from bench.harness.stack import Stack
from bench.report import Figure
from tests.support.processes.servers import free_ports

ROWS = 5_000_000
"""Rows of each table."""

CONNECTION_ROWS = 2_500
"""Rows of the measured connection in each table, spread evenly among the others."""

OTHER_CONNECTIONS = 500_000
"""Number of connections that the other rows belong to."""

SAMPLES = 101
ID = "bench-connection"
PATH = f"/api/connections/{ID}/timeline"

DETAILS = "jsonb_build_object('serviceProvider', 'PLAID', 'itemId', 'item', 'padding', repeat('x', 300))"
STATUS = "CASE WHEN mine % 2 = 0 THEN 'ACTIVE' ELSE 'RECONNECT_REQUIRED' END"
TIME = "timestamptz '2026-01-01T00:00:00Z' + n * interval '1 s'"

TABLES = {
    "webhook": {
        "id": "n",
        "event_id": "md5(n::text)",
        "type": "'BANK_LINKING_CONNECTION_STATUS_CHANGE'",
        "account_id": "'bench-account'",
        "connection_id": "owner",
        "hint_status": STATUS,
        "occurred_at": TIME,
        "signed_at": TIME,
        "received_at": TIME,
        "url": "'https://hooks.example.com/webhooks/meld'",
        "headers": """'{"meld-signature": "O4bN5E0U9s88l2DFc0kjt", "content-type": "application/json"}'::jsonb""",
        "body": "convert_to(repeat('x', 400), 'UTF8')",
        "deliveries": "1",
        "delivered_at": TIME,
        "processed_at": TIME,
    },
    "observation": {
        "id": "n",
        "connection_id": "owner",
        "account_id": "'bench-account'",
        "generation": "mine",
        "trigger": "'webhook'",
        "webhook_event_ids": "jsonb_build_array(md5(n::text))",
        "began_at": TIME,
        "ended_at": f"{TIME} + interval '0.1 s'",
        "found": "true",
        "digest": "md5(n::text)",
        "document": f"jsonb_build_object('id', owner, 'status', {STATUS}, 'serviceProviderDetails', {DETAILS})",
    },
    "event": {
        "position": "n",
        "id": "md5('event' || n)",
        "connection_id": "owner",
        "sequence": "mine",
        "type": "'connection.status_changed'",
        "account_id": "'bench-account'",
        "time": f"{TIME} + interval '0.1 s'",
        "observation_id": "n",
        "data": f"jsonb_build_object('current', jsonb_build_object('status', {STATUS}), 'connection', {DETAILS})",
    },
    "delivery": {
        "id": "n",
        "subscription_id": "'bench-subscription'",
        "connection_id": "owner",
        "position": "n",
        "event_id": "md5('event' || n)",
        "type": "'connection.status_changed'",
        "created_at": f"{TIME} + interval '0.2 s'",
        "attempts": "1",
        "tried_at": f"{TIME} + interval '0.3 s'",
        "delivered_at": f"{TIME} + interval '0.3 s'",
        "outcomes": """'[{"at": "2026-01-01T00:00:00Z", "seconds": 0.1, "status": 200, "error": null,
            "response": null}]'::jsonb""",
    },
}
"""The columns of each table with their SQL expressions over n (number), owner (connection) and mine (its row)."""

CONNECTION = """
INSERT INTO connection (id, account_id, status, duplicate_ids, products, optional_products, regions,
    service_provider_details, observed_at, checked_at, sequence, digest, document)
VALUES (%s, 'bench-account', 'ACTIVE', '[]', '[]', '[]', '[]', '{}', now(), now(), 1, '', '{}')
"""


def measure(stack: Stack) -> Figure:
    """Measure on PostgreSQL, over HTTP."""
    count = 20_000 if stack.is_quick else ROWS
    samples = 5 if stack.is_quick else SAMPLES
    figure = Figure(
        "timeline",
        f"the timeline of a connection with {4 * CONNECTION_ROWS:,} rows in tables of {count:,}: milliseconds",
        ["request", "items", "samples", "median", "max"],
    )
    (port,) = free_ports(1)
    with web(stack, port=port, meld="http://127.0.0.1:1") as service:
        seconds = _fill(service, count)
        client = ApiClient(port)
        began = time.monotonic()
        client.get(PATH)
        first_seconds = time.monotonic() - began
        items, cursors = _read_all(client, 100)
        middle = f"{PATH}?after={cursors[len(cursors) // 2]}"
        _measure_request(figure, "the first page of 100", 100, samples, lambda: client.get(PATH))
        _measure_request(figure, "a page of 100 in the middle", 100, samples, lambda: client.get(middle))
        for limit in (100, 1000):
            read = partial(_read_all, client, limit)
            _measure_request(
                figure, f"the whole timeline in pages of {limit:,}", len(items), max(samples // 20, 3), read
            )
    kinds = sorted({item["kind"] for item in items})
    figure.check(
        "items", target=f"{4 * CONNECTION_ROWS:,}", measured=f"{len(items):,}", is_met=len(items) == 4 * CONNECTION_ROWS
    )
    figure.notes.append(f"Kinds: {', '.join(kinds)}. The tables were filled in {seconds:.0f} s, unlogged.")
    figure.notes.append(f"The very first request of the process took {1000 * first_seconds:.0f} ms.")
    return figure


def _fill(service: Service, count: int) -> float:
    """Fill the tables; return the duration in seconds."""
    began = time.monotonic()
    every = count // CONNECTION_ROWS
    numbers = f"""
        SELECT n, CASE WHEN n % {every} = 0 THEN '{ID}' ELSE 'connection-' || n % {OTHER_CONNECTIONS} END AS owner,
            CASE WHEN n % {every} = 0 THEN n / {every} ELSE n / {OTHER_CONNECTIONS} + 1 END AS mine
        FROM generate_series(1, {count}) AS n
    """
    with psycopg.connect(service.env["MELDWATCH_DATABASE_URL"], autocommit=True) as server:
        for table, columns in TABLES.items():
            # The figure measures reads; the write-ahead log would only double the time to fill the tables.
            server.execute(f"ALTER TABLE {table} SET UNLOGGED")
            names, values = ", ".join(columns), ", ".join(columns.values())
            server.execute(f"INSERT INTO {table} ({names}) SELECT {values} FROM ({numbers}) AS numbers")
        server.execute(CONNECTION, [ID])
        server.execute("VACUUM ANALYZE")
    return time.monotonic() - began


def _read_all(client: ApiClient, limit: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Read all pages; return the items and the cursors of the pages."""
    items: list[dict[str, Any]] = []
    cursors: list[str] = []
    while True:
        after = f"&after={cursors[-1]}" if cursors else ""
        page = client.get(f"{PATH}?limit={limit}{after}")
        items += page["timeline"]
        if page["next"] is None:
            return items, cursors
        cursors.append(page["next"])


def _measure_request(figure: Figure, what: str, items: int, samples: int, send: Callable[[], object]) -> None:
    values = []
    for _ in range(samples):
        began = time.monotonic()
        send()
        values.append(1000 * (time.monotonic() - began))
    figure.rows.append([what, f"{items:,}", str(samples), f"{median(values):.1f}", f"{max(values):.1f}"])
    figure.raw[what] = values
