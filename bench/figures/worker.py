"""Worker: how many reads a second one worker process does, against what its threads and Meld's latency allow."""

import time
from collections.abc import Sequence

from bench.harness import signed_webhooks
from bench.harness.api_client import send_at_once
from bench.harness.simulated_meld import Simulated
from bench.harness.stack import DESCRIPTIONS, SETUPS, Service, Setup, Stack
from bench.report import Figure
from tests.support.servers import free_ports

MELD_SECONDS = 0.2
THREADS = (8, 32)
LEAST = 0.8
SECONDS = 20.0
RAMP_SECONDS = 2.0
AT_ONCE = 100


def measure(stack: Stack) -> Figure:
    """Measure both set-ups with few threads and with many."""
    figure = Figure(
        "worker",
        f"one worker process, Meld answers in {MELD_SECONDS * 1000:.0f} ms: reads a second while there is a backlog",
        ["set-up", "threads", "possible", "reads/s", "share", "CPU ms per read"],
    )
    for setup in SETUPS:
        for threads in THREADS:
            _measure(figure, stack, setup, threads)
    figure.notes.append(
        f"Possible is threads / {MELD_SECONDS} s. Every read is of a connection never seen before, so each stores a"
        " mirror, an observation and an event. The backlog is raised by as many webhooks."
    )
    figure.notes.append("CPU is that of the process with the worker in it; embedded, it also serves and stores.")
    return figure


def _measure(figure: Figure, stack: Stack, setup: Setup, threads: int) -> None:
    (port,) = free_ports(1)
    possible = threads / MELD_SECONDS
    seconds = 4 if stack.is_quick else SECONDS
    with (
        stack.quick_meld(MELD_SECONDS) as meld,
        setup(stack, port=port, meld=meld.url, threads=threads) as service,
    ):
        rate, cpu = _rate(service, meld, int(possible * (seconds + 2 * RAMP_SECONDS)), seconds)
    figure.rows.append(
        [DESCRIPTIONS[service.name], str(threads), f"{possible:.0f}", f"{rate:.0f}", f"{rate / possible:.0%}",
         f"{1000 * cpu:.1f}"]
    )  # fmt: skip
    figure.check(
        f"{threads} threads, {service.name}",
        target=f">= {LEAST:.0%}",
        measured=f"{rate / possible:.0%}",
        holds=rate >= LEAST * possible,
    )


def _rate(service: Service, meld: Simulated, backlog: int, seconds: float) -> tuple[float, float]:
    """Return reads a second, and CPU seconds a read, over a time in which there was work for every thread."""
    _raise(service, [signed_webhooks.new_id() for _ in range(backlog)])
    time.sleep(RAMP_SECONDS)
    began, cpu = time.monotonic(), _cpu_seconds(service)
    time.sleep(seconds)
    ended, cpu = time.monotonic(), _cpu_seconds(service) - cpu
    assert service.owed() > 0, "the backlog was too small"
    reads = sum(began <= at < ended for at in meld.answered())
    return reads / (ended - began), cpu / reads


def _raise(service: Service, connection_ids: Sequence[str]) -> None:
    signed = [signed_webhooks.make(service.url, connection_id) for connection_id in connection_ids]
    for start in range(0, len(signed), AT_ONCE):
        answers = send_at_once(service.port, signed[start : start + AT_ONCE])
        assert set(answers) == {200}, answers


def _cpu_seconds(service: Service) -> float:
    (child,) = [child for name, child in service.children.items() if name in {"up", "worker-0"}]
    return child.cpu_seconds()
