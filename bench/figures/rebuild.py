"""Figure rebuild: speed and memory of ``meldwatch rebuild --check``, which projects the whole history again."""

import time

from bench.figures.backfill import wait_and_measure_memory_mb
from bench.harness.service import Service
from bench.harness.stack import BenchError, Stack
from bench.harness.stored_history import OBSERVATIONS_PER_CONNECTION, store_history
from bench.report import Figure
from tests.support.processes.servers import free_ports

OBSERVATIONS = 1_000_000
MAX_MB = 200.0


def measure(stack: Stack) -> Figure:
    """Measure on PostgreSQL."""
    count = 20_000 if stack.is_quick else OBSERVATIONS
    figure = Figure(
        "rebuild",
        f"`meldwatch rebuild --check` projects {count:,} observations"
        f" of {count // OBSERVATIONS_PER_CONNECTION:,} connections",
        ["observations", "events", "seconds", "observations/s", "MB with an empty history", "MB at most"],
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
    events = store_history(url, count // OBSERVATIONS_PER_CONNECTION)
    seconds, peak = _check(service)
    service.database.close()
    seconds -= start_seconds
    figure.rows.append(
        [f"{count:,}", f"{events:,}", f"{seconds:.1f}", f"{count / seconds:,.0f}", f"{idle:.0f}", f"{peak:.0f}"]
    )
    figure.check(
        "memory above an empty history",
        target=f"<= {MAX_MB:.0f} MB",
        measured=f"{peak - idle:.0f} MB",
        is_met=peak - idle <= MAX_MB,
    )
    figure.notes.append("PostgreSQL on the same machine, no other load; without the start time of the process.")
    return figure


def _check(service: Service) -> tuple[float, float]:
    """Run the check, which must find no difference; return its seconds and peak memory in MB."""
    began = time.monotonic()
    with service.running("rebuild", "--check") as child:
        peak = wait_and_measure_memory_mb(child)
        seconds = time.monotonic() - began
        if child.exit_code != 0:
            raise BenchError(f"the check exited with {child.exit_code}:\n{child.output.read_text()[-4000:]}")
    return seconds, peak
