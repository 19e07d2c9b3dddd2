"""Figure backfill: duration, calls and memory of ``meldwatch reconcile`` on an empty mirror."""

import time
from pathlib import Path

from sqlalchemy import text

from bench.harness.service import Service
from bench.harness.stack import BenchProcess, Stack, wait_until
from bench.report import Figure
from tests.support.processes.servers import free_ports

CONNECTIONS = 100_000
MAX_CALLS_PER_100 = 1.01
MAX_MB = 150.0
TIMEOUT_SECONDS = 3600.0


def measure(stack: Stack) -> Figure:
    """Measure on PostgreSQL."""
    count = 3_000 if stack.is_quick else CONNECTIONS
    figure = Figure(
        "backfill",
        f"`meldwatch reconcile` fills an empty mirror with {count:,} connections",
        ["connections", "events", "calls of Meld", "seconds", "connections/s", "MB at its start", "MB at most"],
    )
    (port,) = free_ports(1)
    with stack.simulated_meld(port, 0, connections=count) as meld:
        service = Service(
            stack, name="backfill", port=port, meld=meld.url, database=stack.new_postgres(), broker=stack.new_broker()
        )
        with service.running("reconcile") as child:
            wait_until(lambda: service.count_rows("reconcile_run"), 30, "the first page")
            idle, peak = _memory_mb(child, "VmRSS"), wait_and_measure_memory_mb(child)
        seconds, stored, events = _run_seconds(service), service.count_rows("connection"), service.count_rows("event")
        service.database.close()
        calls = meld.lists()
    figure.rows.append(
        [f"{stored:,}", f"{events:,}", str(calls), f"{seconds:.0f}", f"{stored / seconds:,.0f}", f"{idle:.0f}",
         f"{peak:.0f}"]
    )  # fmt: skip
    max_calls = int(count / 100 * MAX_CALLS_PER_100)
    figure.check("stored", target=f"{count:,}", measured=f"{stored:,}", is_met=stored == count)
    figure.check("calls of Meld", target=f"<= {max_calls}", measured=str(calls), is_met=calls <= max_calls)
    figure.check(
        "memory above its start",
        target=f"<= {MAX_MB:.0f} MB",
        measured=f"{peak - idle:.0f} MB",
        is_met=peak - idle <= MAX_MB,
    )
    figure.notes.append("PostgreSQL, the simulated Meld on the same machine, pages of 100, no other load.")
    return figure


def wait_and_measure_memory_mb(child: BenchProcess) -> float:
    """Wait until a process exits; return its peak memory in MB."""
    peak, began = 0.0, time.monotonic()
    while child.is_running():
        assert time.monotonic() - began < TIMEOUT_SECONDS
        peak = max(peak, _memory_mb(child, "VmHWM"))
        time.sleep(0.1)
    return peak


def _memory_mb(child: BenchProcess, name: str) -> float:
    """Return a field of /proc/PID/status in MB; 0 if the process has exited."""
    try:
        lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def _run_seconds(service: Service) -> float:
    duration = text("SELECT extract(epoch FROM finished_at - started_at) FROM reconcile_run")
    with service.database.read() as session:
        return float(session.connection().execute(duration).scalar_one())
