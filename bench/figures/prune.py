"""Prune: how long a million webhooks take to go, and what those that come in meanwhile have to wait."""

import json
import time
from typing import Any

import psycopg

from bench.harness.stack import START_SECONDS, Service, Stack, until, web
from bench.report import Figure
from tests.support.servers import free_ports

ROWS = 1_000_000
RATE = 500
QUIET_SECONDS = 60
"""How long the same flood is watched before and after, without a prune."""

PRUNE_SECONDS = 3_600
TIMES_LONGER = 3.0
MILLISECONDS = 50.0
"""What the 99th percentile may be during a prune: so many times what it is without, or so much."""

AGES = {"removed": 100, "emptied of their bodies": 40}
"""What becomes of webhooks of which age, in days."""

TIME = "now() - {days} * interval '1 day' - ({rows} - n) * interval '1 ms'"
COLUMNS = {
    "event_id": "md5('{days}' || n)",
    "type": "'BANK_LINKING_CONNECTION_STATUS_CHANGE'",
    "account_id": "'bench-account'",
    "connection_id": "'connection-' || lpad((n % 2000)::text, 5, '0')",
    "hint_status": "'ACTIVE'",
    "occurred_at": TIME,
    "signed_at": TIME,
    "received_at": TIME,
    "url": "'https://hooks.example.com/webhooks/meld'",
    "headers": """'{{"meld-signature": "O4bN5E0U9s88l2DFc0kjt", "content-type": "application/json"}}'::jsonb""",
    # A sealed body does not compress.
    "body": "convert_to((SELECT string_agg(md5(n || ' ' || m), '') FROM generate_series(1, 28) AS m), 'UTF8')",
    "deliveries": "1",
    "delivered_at": TIME,
    "processed_at": TIME,
}  # fmt: skip


def measure(stack: Stack) -> Figure:
    """Measure on PostgreSQL, once for each fate."""
    rows = 20_000 if stack.is_quick else ROWS
    figure = Figure(
        "prune",
        f"prune of {rows:,} webhooks while {RATE} a second come in",
        ["webhooks", "prune", "s", "rows/s", "came in", "not 200", "p50 ms", "p99 ms", "p99.9 ms", "max ms"],
    )
    for fate, days in AGES.items():
        (port,) = free_ports(1)
        with web(stack, port=port, meld="http://127.0.0.1:9") as service:
            _fill(service, rows, days)
            _measure(stack, figure, service, fate, rows)
    figure.notes.append(
        "`web` on PostgreSQL and Valkey, `meldwatch prune` beside it, 2,000 connections; the flood is open, and each"
        " answer's time is counted from when its webhook was due."
    )
    return figure


def _measure(stack: Stack, figure: Figure, service: Service, fate: str, rows: int) -> None:
    seconds = 3 if stack.is_quick else QUIET_SECONDS
    _flood(stack, service, lambda: time.sleep(seconds / 6))  # the first are slower
    before = _flood(stack, service, lambda: time.sleep(seconds))
    took: list[float] = []
    during = _flood(stack, service, lambda: took.append(_prune(service, rows)))
    after = _flood(stack, service, lambda: time.sleep(seconds))
    for when, flood in (("before", before), ("during", during), ("after", after)):
        speed = [f"{took[0]:.0f}", f"{rows / took[0]:,.0f}"] if when == "during" else ["", ""]
        numbers = [f"{flood[name]:.1f}" for name in ("p50", "p99", "p999", "max")]
        figure.rows.append([fate, when, *speed, f"{flood['sent']:,}", str(flood["not_200"]), *numbers])
    figure.raw[fate] = {"before": before, "during": during, "after": after, "prune_seconds": took[0]}
    usual = (before["p99"] + after["p99"]) / 2
    figure.check(
        f"{fate}: p99 of ingest during the prune, against without",
        target=f"<= {TIMES_LONGER:g} times, or {MILLISECONDS:g} ms",
        measured=f"{during['p99']:.1f} ms against {usual:.1f} ms",
        holds=during["p99"] <= max(TIMES_LONGER * usual, MILLISECONDS),
    )
    lost = sum(flood["not_200"] for flood in (before, during, after))
    figure.check(f"{fate}: webhooks not answered 200", target="0", measured=str(lost), holds=not lost)


def _flood(stack: Stack, service: Service, do: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever takes the time
    with stack.child("flood", "-m", "bench.harness.webhook_flood", str(service.port), str(RATE)) as flood:
        until(flood.output.read_text, START_SECONDS, "the flood")
        do()
    told: dict[str, Any] = json.loads(flood.output.read_text().splitlines()[-1])
    return told


def _prune(service: Service, rows: int) -> float:
    began = time.monotonic()
    with service.running("prune", "--json") as child:
        until(lambda: not child.is_running(), PRUNE_SECONDS, "the end of the prune")
    counts = json.loads(child.output.read_text().splitlines()[-1])
    assert child.exit_code == 0
    assert counts["webhooks"] + counts["bodies"] == rows, counts
    return time.monotonic() - began


def _fill(service: Service, rows: int, days: int) -> None:
    names = ", ".join(COLUMNS)
    values = ", ".join(COLUMNS.values()).format(days=days, rows=rows)
    url = service.env["MELDWATCH_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"INSERT INTO webhook ({names}) SELECT {values} FROM generate_series(1, {rows}) AS n")
        server.execute("VACUUM ANALYZE")
        server.execute("CHECKPOINT")
