"""Ingest: webhooks a second, against two floors in the same run.

The floors (``bench/harness/floors.py``) are the same server stack that only verifies, and that also stores the webhook with
one INSERT and one commit per request. Rounds are interleaved; figures are medians.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from bench.harness import signed_webhooks, wrk_load
from bench.harness.postgres import describe
from bench.harness.stack import Child, Service, Stack, embedded, spread, web
from bench.report import Figure
from tests.support.servers import free_ports

CONCURRENCIES = (32, 128)
TARGETS = {("PostgreSQL", 32): 1.3, ("PostgreSQL", 128): 1.8}
"""Times the rate of the floor that inserts."""

ROUNDS = 3
WHOLE_ROUNDS = 1
SECONDS = 6
WARM_SECONDS = 1
CONNECTIONS = 2_000
NOWHERE = "http://127.0.0.1:9"
"""Where nobody reads Meld, nobody answers."""

VERIFY = "floor a: verifies only"
INSERT = "floor b: INSERT + commit each"
COLUMNS = (
    "database", "at once", "who", "webhooks/s", "p50 ms", "p99 ms", "not 200", "CPU s per 1,000", "RSS MB", "drain s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contender:
    """One that webhooks are fired at."""

    name: str
    port: int
    child: Child
    service: Service | None = None


def measure(stack: Stack) -> Figure:
    """Measure on PostgreSQL and on SQLite."""
    figure = Figure("ingest", "unique signed webhooks of about 600 bytes", COLUMNS)
    ids = [signed_webhooks.new_id() for _ in range(CONNECTIONS)]
    for database, contenders, whole in (
        ("PostgreSQL", _on_postgres, spread),
        ("SQLite", _on_sqlite, embedded),
    ):
        with contenders(stack) as running:
            _compare(figure, stack, database, running, ids)
        (port,) = free_ports(1)
        with stack.quick_meld(0) as meld, whole(stack, port=port, meld=meld.url) as service:
            _drain(figure, stack, database, service, ids)
    figure.notes.append(describe(stack.postgres_url) + ". SQLite: WAL, synchronous FULL.")
    figure.notes.append(
        f"wrk with one thread; {CONNECTIONS} connection ids, every event id once, signed beforehand. CPU and memory"
        " are those of the process that answers."
    )
    figure.notes.append(
        f"Medians of {_rounds(stack, ROUNDS)} interleaved rounds of {_seconds(stack)} s, with nobody at work behind"
        f" the inbox; rows with a drain are medians of {_rounds(stack, WHOLE_ROUNDS)} with workers and clock running"
        " beside the load. The drain is the time from the end of the load until no read is owed, with a Meld that"
        " answers at once."
    )
    return figure


def _rounds(stack: Stack, rounds: int) -> int:
    return 1 if stack.is_quick else rounds


def _seconds(stack: Stack) -> int:
    return 2 if stack.is_quick else SECONDS


@contextlib.contextmanager
def _floor(stack: Stack, name: str, kind: str, *more: str) -> Iterator[Contender]:
    (port,) = free_ports(1)
    with stack.child(kind, "-m", "bench.harness.floors", kind, str(port), *more, port=port) as child:
        yield Contender(name, port, child)


@contextlib.contextmanager
def _on_postgres(stack: Stack) -> Iterator[list[Contender]]:
    (port,) = free_ports(1)
    with (
        _floor(stack, VERIFY, "verify") as verify,
        _floor(stack, INSERT, "insert", stack.new_postgres()) as insert,
        web(stack, port=port, meld=NOWHERE) as service,
    ):
        yield [verify, insert, Contender("ours: `web`", port, service.children["web"], service)]


@contextlib.contextmanager
def _on_sqlite(stack: Stack) -> Iterator[list[Contender]]:
    (port,) = free_ports(1)
    service = Service(stack, name="alone", port=port, meld=NOWHERE, database=stack.new_sqlite(), broker="memory://")
    with (
        _floor(stack, VERIFY, "verify") as verify,
        _floor(stack, INSERT, "insert", stack.new_sqlite()) as insert,
        contextlib.closing(service.database),
        stack.child("alone", "-m", "bench.harness.web_on_sqlite", port=port, env=service.env) as child,
    ):
        yield [verify, insert, Contender("ours: the web part of `up`", port, child, service)]


def _compare(figure: Figure, stack: Stack, database: str, contenders: Sequence[Contender], ids: Sequence[str]) -> None:
    """Fire at each in turn, again and again, and hold ours against the floors."""
    runs: defaultdict[tuple[int, str], list[wrk_load.LoadRun]] = defaultdict(list)
    warm = {one.name: _fire(one, ids, max(CONCURRENCIES), WARM_SECONDS) for one in contenders}
    for _ in range(_rounds(stack, ROUNDS)):
        for concurrency in CONCURRENCIES:
            for contender in contenders:
                runs[concurrency, contender.name].append(_fire(contender, ids, concurrency, _seconds(stack)))
    for concurrency in CONCURRENCIES:
        figure.rows += [_row(database, concurrency, one.name, runs[concurrency, one.name]) for one in contenders]
        rates = [median(run.rate for run in runs[concurrency, one.name]) for one in contenders]
        _judge(figure, database, concurrency, floor=rates[1], ours=rates[2])
    _check_stored(figure, database, contenders[2], warm[contenders[2].name], runs)
    for (concurrency, name), made in runs.items():
        figure.raw[f"{database} {concurrency} {name}"] = [asdict(run) for run in made]


def _judge(figure: Figure, database: str, concurrency: int, *, floor: float, ours: float) -> None:
    target = TARGETS.get((database, concurrency))
    figure.check(
        f"{database}, {concurrency} at once, against floor b",
        target=f">= {target} x" if target else "-",
        measured=f"{ours / floor:.2f} x",
        holds=target is None or ours >= target * floor,
    )


def _check_stored(
    figure: Figure,
    database: str,
    ours: Contender,
    warm: wrk_load.LoadRun,
    runs: dict[tuple[int, str], list[wrk_load.LoadRun]],
) -> None:
    """Compare what was answered with what is in the table. What was under way when wrk ended is stored, uncounted."""
    assert ours.service is not None
    mine = [(concurrency, run) for (concurrency, name), made in runs.items() if name == ours.name for run in made]
    mine.append((max(CONCURRENCIES), warm))
    answered, refused = sum(run.requests for _, run in mine), sum(run.not_200 for _, run in mine)
    stored = ours.service.rows("webhook")
    figure.check(
        f"{database}: answered 200 and stored",
        target="all",
        measured=f"{answered - refused} answered, {stored} stored, {refused} not 200",
        holds=not refused and answered <= stored <= answered + sum(concurrency for concurrency, _ in mine),
    )


def _drain(figure: Figure, stack: Stack, database: str, service: Service, ids: Sequence[str]) -> None:
    """Fire at the whole service, its workers at work, and see how long they take to finish afterwards."""
    child = service.children.get("up") or service.children["web"]
    contender = Contender(
        "ours: `up`, whole" if "up" in service.children else "ours: `web`, with worker and clock", service.port, child
    )
    for concurrency in CONCURRENCIES:
        runs, drains = [], []
        for _ in range(_rounds(stack, WHOLE_ROUNDS)):
            runs.append(_fire(contender, ids, concurrency, _seconds(stack)))
            ended = time.monotonic()
            service.wait_until_quiet()
            drains.append(time.monotonic() - ended)
        figure.rows.append(_row(database, concurrency, contender.name, runs, f"{median(drains):.1f}"))


def _fire(contender: Contender, ids: Sequence[str], concurrency: int, seconds: int) -> wrk_load.LoadRun:
    url = signed_webhooks.url_of(contender.port)
    return wrk_load.fire(url, contender.child.pid, connection_ids=ids, concurrency=concurrency, seconds=seconds)


def _row(database: str, concurrency: int, name: str, runs: Sequence[wrk_load.LoadRun], drain: str = "") -> list[str]:
    run = wrk_load.LoadRun.median(runs)
    return [
        database, str(concurrency), name, f"{run.rate:,.0f}", f"{run.p50_ms:.1f}", f"{run.p99_ms:.1f}",
        str(run.not_200), f"{run.cpu_seconds_per_1000:.3f}", f"{run.rss_mb:.0f}", drain,
    ]  # fmt: skip
