"""Rebuild: the whole past is folded again by ``meldwatch rebuild --check`` and held against mirror and feed."""

import time

from bench.figures.backfill import watch
from bench.harness.stack import BenchError, Service, Stack
from bench.harness.stored_history import EACH, fill
from bench.report import Figure
from tests.support.servers import free_ports

OBSERVATIONS = 1_000_000
MOST_MB = 200.0


def measure(stack: Stack) -> Figure:
    """Measure on PostgreSQL."""
    count = 20_000 if stack.is_quick else OBSERVATIONS
    figure = Figure(
        "rebuild",
        f"`meldwatch rebuild --check` folds {count:,} observations of {count // EACH:,} connections",
        ["observations", "events", "seconds", "observations/s", "MB with an empty past", "MB at most"],
    )
    (port,) = free_ports(1)
    service = Service(
        stack,
        name="rebuild",
        port=port,
        meld="http://127.0.0.1:1",
        database=(url := stack.new_postgres()),
        broker="memory://",
    )
    start_seconds, idle = _check(service)
    events = fill(url, count // EACH)
    seconds, peak = _check(service)
    service.database.close()
    seconds -= start_seconds
    figure.rows.append(
        [f"{count:,}", f"{events:,}", f"{seconds:.1f}", f"{count / seconds:,.0f}", f"{idle:.0f}", f"{peak:.0f}"]
    )
    figure.check(
        "memory above an empty past",
        target=f"<= {MOST_MB:.0f} MB",
        measured=f"{peak - idle:.0f} MB",
        holds=peak - idle <= MOST_MB,
    )
    figure.notes.append(
        "PostgreSQL on the same machine, nothing else at work; without the time that a process starts in."
    )
    return figure


def _check(service: Service) -> tuple[float, float]:
    """Compare everything; return the seconds and the most memory that it took. It must find nothing."""
    began = time.monotonic()
    with service.running("rebuild", "--check") as child:
        peak = watch(child)
        seconds = time.monotonic() - began
        if child.exit_code != 0:
            raise BenchError(f"the check ended with {child.exit_code}:\n{child.output.read_text()[-4000:]}")
    return seconds, peak
