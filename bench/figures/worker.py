"""Figure worker: reads a second of one worker process, as a share of what its threads and Meld's latency allow."""

import time
from collections.abc import Sequence

from bench.harness import signed_webhooks
from bench.harness.api_client import send_concurrently
from bench.harness.service import DEPLOYMENTS, DESCRIPTIONS, DeploymentFactory, Service
from bench.harness.simulated_meld import MeldControl
from bench.harness.stack import Stack
from bench.report import Figure
from tests.support.processes.servers import free_ports

MELD_SECONDS = 0.2
THREADS = (8, 32)
MIN_SHARE = 0.8
SECONDS = 20.0
RAMP_SECONDS = 2.0
CONCURRENT_WEBHOOKS = 100


def measure(stack: Stack) -> Figure:
    """Measure both deployments with 8 and 32 threads."""
    figure = Figure(
        "worker",
        f"one worker process, Meld answers in {MELD_SECONDS * 1000:.0f} ms: reads a second while there is a backlog",
        ["deployment", "threads", "possible", "reads/s", "share", "CPU ms per read"],
    )
    for deploy in DEPLOYMENTS:
        for threads in THREADS:
            _measure(figure, stack, deploy, threads)
    figure.notes.append(
        f"Possible is threads / {MELD_SECONDS} s. Each read is of a new connection and stores a mirror row, an"
        " observation and an event. One webhook for each connection creates the backlog."
    )
    figure.notes.append("CPU time is that of the process with the worker; embedded, it includes the web part.")
    return figure


def _measure(figure: Figure, stack: Stack, deploy: DeploymentFactory, threads: int) -> None:
    (port,) = free_ports(1)
    possible = threads / MELD_SECONDS
    seconds = 4 if stack.is_quick else SECONDS
    with (
        stack.quick_meld(MELD_SECONDS) as meld,
        deploy(stack, port=port, meld=meld.url, threads=threads) as service,
    ):
        rate, cpu = _measure_rate(service, meld, int(possible * (seconds + 2 * RAMP_SECONDS)), seconds)
    figure.rows.append(
        [DESCRIPTIONS[service.name], str(threads), f"{possible:.0f}", f"{rate:.0f}", f"{rate / possible:.0%}",
         f"{1000 * cpu:.1f}"]
    )  # fmt: skip
    figure.check(
        f"{threads} threads, {service.name}",
        target=f">= {MIN_SHARE:.0%}",
        measured=f"{rate / possible:.0%}",
        is_met=rate >= MIN_SHARE * possible,
    )


def _measure_rate(service: Service, meld: MeldControl, backlog: int, seconds: float) -> tuple[float, float]:
    """Return reads a second and CPU seconds for each read, while there is work for every thread."""
    _create_backlog(service, [signed_webhooks.new_id() for _ in range(backlog)])
    time.sleep(RAMP_SECONDS)
    began, cpu = time.monotonic(), _cpu_seconds(service)
    time.sleep(seconds)
    ended, cpu = time.monotonic(), _cpu_seconds(service) - cpu
    assert service.pending_reads() > 0, "the backlog was too small"
    reads = sum(began <= at < ended for at in meld.answer_times())
    return reads / (ended - began), cpu / reads


def _create_backlog(service: Service, connection_ids: Sequence[str]) -> None:
    signed = [signed_webhooks.make_webhook(service.url, connection_id) for connection_id in connection_ids]
    for start in range(0, len(signed), CONCURRENT_WEBHOOKS):
        answers = send_concurrently(service.port, signed[start : start + CONCURRENT_WEBHOOKS])
        assert set(answers) == {200}, answers


def _cpu_seconds(service: Service) -> float:
    (child,) = [child for name, child in service.children.items() if name in {"up", "worker-0"}]
    return child.cpu_seconds()
