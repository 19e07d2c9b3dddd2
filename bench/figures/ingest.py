"""Figure ingest: webhooks a second, compared with two baseline servers in the same run.

Baseline a is the same server stack that only verifies the signature; baseline b also stores each webhook with one
INSERT and one commit for each request (``bench/harness/baseline_servers.py``). Rounds are interleaved; results are
medians.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from bench.harness import signed_webhooks, wrk_load
from bench.harness.postgres import describe_settings
from bench.harness.service import Service, distributed, embedded, web
from bench.harness.stack import BenchProcess, Stack
from bench.report import Figure
from tests.support.processes.servers import free_ports

CONCURRENCIES = (32, 128)
TARGETS = {("PostgreSQL", 32): 1.3, ("PostgreSQL", 128): 1.8}
"""Minimum rate relative to baseline b."""

ROUNDS = 3
DRAIN_ROUNDS = 1
SECONDS = 6
WARM_SECONDS = 1
CONNECTIONS = 2_000
UNREACHABLE_URL = "http://127.0.0.1:9"
"""The API URL where no process reads Meld."""

VERIFY = "baseline a: verifies only"
INSERT = "baseline b: INSERT + commit each"
COLUMNS = (
    "database", "concurrency", "server", "webhooks/s", "p50 ms", "p99 ms", "not 200", "CPU s per 1,000", "RSS MB",
    "drain s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class IngestTarget:
    """A server that receives the load."""

    name: str
    port: int
    child: BenchProcess
    service: Service | None = None


def measure(stack: Stack) -> Figure:
    """Measure on PostgreSQL and on SQLite."""
    figure = Figure("ingest", "unique signed webhooks of about 600 bytes", COLUMNS)
    ids = [signed_webhooks.new_id() for _ in range(CONNECTIONS)]
    for database, run_targets, deploy in (
        ("PostgreSQL", _on_postgres, distributed),
        ("SQLite", _on_sqlite, embedded),
    ):
        with run_targets(stack) as running:
            _compare(figure, stack, database, running, ids)
        (port,) = free_ports(1)
        with stack.quick_meld(0) as meld, deploy(stack, port=port, meld=meld.url) as service:
            _drain(figure, stack, database, service, ids)
    figure.notes.append(describe_settings(stack.postgres_url) + ". SQLite: WAL, synchronous FULL.")
    figure.notes.append(
        f"wrk with one thread; {CONNECTIONS} connection ids, every event id once, signed beforehand. CPU and memory"
        " are those of the server process."
    )
    figure.notes.append(
        f"Medians of {_rounds(stack, ROUNDS)} interleaved rounds of {_seconds(stack)} s, without workers;"
        f" rows with a drain are medians of {_rounds(stack, DRAIN_ROUNDS)} with workers and scheduler"
        " running during the load. The drain is the time from the end of the load until no read is pending, with a Meld"
        " that answers at once."
    )
    return figure


def _rounds(stack: Stack, rounds: int) -> int:
    return 1 if stack.is_quick else rounds


def _seconds(stack: Stack) -> int:
    return 2 if stack.is_quick else SECONDS


@contextlib.contextmanager
def _run_baseline(stack: Stack, name: str, kind: str, *more: str) -> Iterator[IngestTarget]:
    (port,) = free_ports(1)
    with stack.child(kind, "-m", "bench.harness.baseline_servers", kind, str(port), *more, port=port) as child:
        yield IngestTarget(name, port, child)


@contextlib.contextmanager
def _on_postgres(stack: Stack) -> Iterator[list[IngestTarget]]:
    (port,) = free_ports(1)
    with (
        _run_baseline(stack, VERIFY, "verify") as verify,
        _run_baseline(stack, INSERT, "insert", stack.new_postgres()) as insert,
        web(stack, port=port, meld=UNREACHABLE_URL) as service,
    ):
        yield [verify, insert, IngestTarget("meldwatch: `web`", port, service.children["web"], service)]


@contextlib.contextmanager
def _on_sqlite(stack: Stack) -> Iterator[list[IngestTarget]]:
    (port,) = free_ports(1)
    service = Service(
        stack, name="alone", port=port, meld=UNREACHABLE_URL, database=stack.new_sqlite(), broker="memory://"
    )
    with (
        _run_baseline(stack, VERIFY, "verify") as verify,
        _run_baseline(stack, INSERT, "insert", stack.new_sqlite()) as insert,
        contextlib.closing(service.database),
        stack.child("alone", "-m", "bench.harness.web_on_sqlite", port=port, env=service.env) as child,
    ):
        yield [verify, insert, IngestTarget("meldwatch: the web part of `up`", port, child, service)]


def _compare(figure: Figure, stack: Stack, database: str, targets: Sequence[IngestTarget], ids: Sequence[str]) -> None:
    """Send load to each server in turn, several rounds, and compare meldwatch with the baselines."""
    runs: defaultdict[tuple[int, str], list[wrk_load.LoadRun]] = defaultdict(list)
    warm = {one.name: _run_load(one, ids, max(CONCURRENCIES), WARM_SECONDS) for one in targets}
    for _ in range(_rounds(stack, ROUNDS)):
        for concurrency in CONCURRENCIES:
            for target in targets:
                runs[concurrency, target.name].append(_run_load(target, ids, concurrency, _seconds(stack)))
    for concurrency in CONCURRENCIES:
        figure.rows += [_row(database, concurrency, one.name, runs[concurrency, one.name]) for one in targets]
        rates = [median(run.rate for run in runs[concurrency, one.name]) for one in targets]
        _check_rate(figure, database, concurrency, baseline=rates[1], ours=rates[2])
    _check_stored(figure, database, targets[2], warm[targets[2].name], runs)
    for (concurrency, name), made in runs.items():
        figure.raw[f"{database} {concurrency} {name}"] = [asdict(run) for run in made]


def _check_rate(figure: Figure, database: str, concurrency: int, *, baseline: float, ours: float) -> None:
    target = TARGETS.get((database, concurrency))
    figure.check(
        f"{database}, {concurrency} connections, against baseline b",
        target=f">= {target} x" if target else "-",
        measured=f"{ours / baseline:.2f} x",
        is_met=target is None or ours >= target * baseline,
    )


def _check_stored(
    figure: Figure,
    database: str,
    ours: IngestTarget,
    warm: wrk_load.LoadRun,
    runs: dict[tuple[int, str], list[wrk_load.LoadRun]],
) -> None:
    """Compare the answers with the stored rows; wrk does not count those pending at its end."""
    assert ours.service is not None
    mine = [(concurrency, run) for (concurrency, name), made in runs.items() if name == ours.name for run in made]
    mine.append((max(CONCURRENCIES), warm))
    answered, refused = sum(run.requests for _, run in mine), sum(run.not_200 for _, run in mine)
    stored = ours.service.count_rows("webhook")
    figure.check(
        f"{database}: answered 200 and stored",
        target="all",
        measured=f"{answered - refused} answered, {stored} stored, {refused} not 200",
        is_met=not refused and answered <= stored <= answered + sum(concurrency for concurrency, _ in mine),
    )


def _drain(figure: Figure, stack: Stack, database: str, service: Service, ids: Sequence[str]) -> None:
    """Send load to the whole deployment with workers; measure how long they need to finish afterwards."""
    child = service.children.get("up") or service.children["web"]
    target = IngestTarget(
        "meldwatch: `up`, whole" if "up" in service.children else "meldwatch: `web`, with worker and scheduler",
        service.port,
        child,
    )
    for concurrency in CONCURRENCIES:
        runs, drains = [], []
        for _ in range(_rounds(stack, DRAIN_ROUNDS)):
            runs.append(_run_load(target, ids, concurrency, _seconds(stack)))
            ended = time.monotonic()
            service.wait_until_idle()
            drains.append(time.monotonic() - ended)
        figure.rows.append(_row(database, concurrency, target.name, runs, f"{median(drains):.1f}"))


def _run_load(target: IngestTarget, ids: Sequence[str], concurrency: int, seconds: int) -> wrk_load.LoadRun:
    url = signed_webhooks.webhook_url(target.port)
    return wrk_load.run_load(url, target.child.pid, connection_ids=ids, concurrency=concurrency, seconds=seconds)


def _row(database: str, concurrency: int, name: str, runs: Sequence[wrk_load.LoadRun], drain: str = "") -> list[str]:
    run = wrk_load.LoadRun.median(runs)
    return [
        database, str(concurrency), name, f"{run.rate:,.0f}", f"{run.p50_ms:.1f}", f"{run.p99_ms:.1f}",
        str(run.not_200), f"{run.cpu_seconds_per_1000:.3f}", f"{run.rss_mb:.0f}", drain,
    ]  # fmt: skip
