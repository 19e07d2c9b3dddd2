"""Figure prune: duration of pruning a million webhooks, and the ingest latency meanwhile."""

import json
import time
from typing import Any

import psycopg

from bench.harness.service import Service, web
from bench.harness.stack import START_TIMEOUT_SECONDS, Stack, wait_until
from bench.report import Figure
from tests.support.processes.servers import free_ports

ROWS = 1_000_000
RATE = 500
QUIET_SECONDS = 60
"""Duration of the same load before and after, without a prune."""

PRUNE_SECONDS = 3_600
MAX_RATIO = 3.0
MAX_P99_MS = 50.0
"""Limits of the 99th percentile during a prune: relative to that without one, or absolute."""

AGES = {"removed": 100, "bodies removed": 40}
"""The result of a prune, and the age in days of the webhooks that it applies to."""

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
    # An encrypted body does not compress.
    "body": "convert_to((SELECT string_agg(md5(n || ' ' || m), '') FROM generate_series(1, 28) AS m), 'UTF8')",
    "deliveries": "1",
    "delivered_at": TIME,
    "processed_at": TIME,
}  # fmt: skip


def measure(stack: Stack) -> Figure:
    """Measure on PostgreSQL, once for each result."""
    rows = 20_000 if stack.is_quick else ROWS
    figure = Figure(
        "prune",
        f"prune of {rows:,} webhooks while {RATE} a second come in",
        ["webhooks", "prune", "s", "rows/s", "received", "not 200", "p50 ms", "p99 ms", "p99.9 ms", "max ms"],
    )
    for result, days in AGES.items():
        (port,) = free_ports(1)
        with web(stack, port=port, meld="http://127.0.0.1:9") as service:
            _fill(service, rows, days)
            _measure(stack, figure, service, result, rows)
    figure.notes.append(
        "`web` on PostgreSQL and Valkey, `meldwatch prune` beside it, 2,000 connections; the load is open-loop: a"
        " latency counts from the time at which its webhook was due."
    )
    return figure


def _measure(stack: Stack, figure: Figure, service: Service, result: str, rows: int) -> None:
    seconds = 3 if stack.is_quick else QUIET_SECONDS
    _flood(stack, service, lambda: time.sleep(seconds / 6))  # warm-up
    before = _flood(stack, service, lambda: time.sleep(seconds))
    durations: list[float] = []
    during = _flood(stack, service, lambda: durations.append(_prune(service, rows)))
    after = _flood(stack, service, lambda: time.sleep(seconds))
    for when, flood in (("before", before), ("during", during), ("after", after)):
        speed = [f"{durations[0]:.0f}", f"{rows / durations[0]:,.0f}"] if when == "during" else ["", ""]
        numbers = [f"{flood[name]:.1f}" for name in ("p50", "p99", "p999", "max")]
        figure.rows.append([result, when, *speed, f"{flood['sent']:,}", str(flood["not_200"]), *numbers])
    figure.raw[result] = {"before": before, "during": during, "after": after, "prune_seconds": durations[0]}
    usual = (before["p99"] + after["p99"]) / 2
    figure.check(
        f"{result}: p99 of ingest during the prune, against without",
        target=f"<= {MAX_RATIO:g} times, or {MAX_P99_MS:g} ms",
        measured=f"{during['p99']:.1f} ms against {usual:.1f} ms",
        is_met=during["p99"] <= max(MAX_RATIO * usual, MAX_P99_MS),
    )
    lost = sum(flood["not_200"] for flood in (before, during, after))
    figure.check(f"{result}: webhooks not answered 200", target="0", measured=str(lost), is_met=not lost)


def _flood(stack: Stack, service: Service, do: Any) -> dict[str, Any]:  # noqa: ANN401 - any callable
    with stack.child("flood", "-m", "bench.harness.webhook_flood", str(service.port), str(RATE)) as flood:
        wait_until(flood.output.read_text, START_TIMEOUT_SECONDS, "start of the load")
        do()
    latencies: dict[str, Any] = json.loads(flood.output.read_text().splitlines()[-1])
    return latencies


def _prune(service: Service, rows: int) -> float:
    began = time.monotonic()
    with service.running("prune", "--json") as child:
        wait_until(lambda: not child.is_running(), PRUNE_SECONDS, "end of the prune")
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
