"""Backfill: an empty mirror is filled from Meld's list by ``meldwatch reconcile``."""

import time
from pathlib import Path

from sqlalchemy import text

from bench.harness.stack import Child, Service, Stack, until
from bench.report import Figure
from tests.support.servers import free_ports

CONNECTIONS = 100_000
MOST_CALLS_PER_100 = 1.01
MOST_MB = 150.0
PATIENCE_SECONDS = 3600.0


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
            until(lambda: service.rows("sweep"), 30, "the first page")
            idle, peak = _memory(child, "VmRSS"), watch(child)
        seconds, stored, events = _seconds(service), service.rows("connection"), service.rows("event")
        service.database.close()
        calls = meld.lists()
    figure.rows.append(
        [f"{stored:,}", f"{events:,}", str(calls), f"{seconds:.0f}", f"{stored / seconds:,.0f}", f"{idle:.0f}",
         f"{peak:.0f}"]
    )  # fmt: skip
    most = int(count / 100 * MOST_CALLS_PER_100)
    figure.check("stored", target=f"{count:,}", measured=f"{stored:,}", holds=stored == count)
    figure.check("calls of Meld", target=f"<= {most}", measured=str(calls), holds=calls <= most)
    figure.check(
        "memory above its start",
        target=f"<= {MOST_MB:.0f} MB",
        measured=f"{peak - idle:.0f} MB",
        holds=peak - idle <= MOST_MB,
    )
    figure.notes.append("PostgreSQL, the simulated Meld on the same machine, pages of 100, nothing else at work.")
    return figure


def watch(child: Child) -> float:
    """Wait for the end of a process; return the most memory that it had, in MB."""
    peak, began = 0.0, time.monotonic()
    while child.is_running():
        assert time.monotonic() - began < PATIENCE_SECONDS
        peak = max(peak, _memory(child, "VmHWM"))
        time.sleep(0.1)
    return peak


def _memory(child: Child, name: str) -> float:
    """Return a figure of a process's memory, in MB; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def _seconds(service: Service) -> float:
    took = text("SELECT extract(epoch FROM finished_at - started_at) FROM reconcile_run")
    with service.database.read() as session:
        return float(session.connection().execute(took).scalar_one())
