"""Figure push: pushes a second of one worker process to one consumer, in order, each event once."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from sqlalchemy import text

from bench.harness.api_client import ApiClient
from bench.harness.consumer_control import ConsumerControl, ReceivedPush, run_consumer
from bench.harness.service import DEPLOYMENTS, DESCRIPTIONS, DeploymentFactory, Service
from bench.harness.stack import Stack, wait_until
from bench.report import Figure
from tests.support.processes.servers import free_ports
from tests.support.scripted_consumer import emit

EVENTS = 10_000
CONNECTIONS = 1_000
SECONDS = 0.005
THREADS = (8, 32)
ROUNDS = 3


def measure(stack: Stack) -> Figure:
    """Measure both deployments with 8 and 32 threads."""
    count = CONNECTIONS if stack.is_quick else EVENTS
    figure = Figure(
        "push",
        f"{count} events of {CONNECTIONS} connections to one subscription; its consumer answers in"
        f" {1000 * SECONDS:g} ms: pushes a second of one worker process",
        ["deployment", "threads", "rounds", "possible", "pushes/s", "CPU s per 1,000", "out of order", "repeats"],
    )
    for deploy in DEPLOYMENTS:
        for threads in THREADS:
            _measure(figure, stack, deploy, threads, count)
    figure.notes.append(
        f"Possible is half of the threads / {SECONDS} s, the most that one subscription gets. The feed has the events"
        " before the subscription is created, which begins with the first. From first receipt to last answer; medians."
    )
    figure.notes.append("CPU time is that of the process with the worker; embedded, it includes the web part.")
    return figure


def _measure(figure: Figure, stack: Stack, deploy: DeploymentFactory, threads: int, count: int) -> None:
    rounds = [_round(stack, deploy, threads, count) for _ in range(1 if stack.is_quick else ROUNDS)]
    rate, cpu = (median(each[index] for each in rounds) for index in (0, 1))
    unordered, repeats = (sum(int(each[index]) for each in rounds) for index in (2, 3))
    name = "embedded" if deploy is DEPLOYMENTS[0] else "distributed"
    possible = (threads // 2) / SECONDS
    figure.rows.append(
        [DESCRIPTIONS[name], str(threads), str(len(rounds)), f"{possible:.0f}", f"{rate:.0f}", f"{cpu:.2f}",
         str(unordered), str(repeats)]
    )  # fmt: skip
    figure.raw[f"{name}, {threads} threads"] = rounds
    figure.check(
        f"order, each once, {name}, {threads} threads", target="all",
        measured=f"{unordered} unordered, {repeats} repeats",
        is_met=unordered == repeats == 0,
    )  # fmt: skip


def _round(stack: Stack, deploy: DeploymentFactory, threads: int, count: int) -> tuple[float, float, int, int]:
    """Return pushes a second, CPU seconds for 1,000 pushes, and the numbers of unordered and repeated ones."""
    port, meld = free_ports(2)
    with (
        run_consumer(stack, SECONDS) as consumed,
        deploy(stack, port=port, meld=f"http://127.0.0.1:{meld}", threads=threads) as service,
    ):
        for _ in range(count // CONNECTIONS):
            emit(service.database, *(f"connection-{number:04}" for number in range(CONNECTIONS)))
        cpu = _cpu_seconds(service)
        ApiClient(port).subscribe("bench", consumed.url, from_position=0)
        _wait_for(service, consumed, count)
        cpu = _cpu_seconds(service) - cpu
        pushes = consumed.pushes()
    assert len({push.position for push in pushes}) == count
    seconds = max(push.answered_at for push in pushes) - min(push.received_at for push in pushes)
    return count / seconds, 1000 * cpu / count, _out_of_order(pushes), len(pushes) - count


def _wait_for(service: Service, consumed: ConsumerControl, count: int) -> None:
    wait_until(lambda: consumed.count() >= count, 300, "pushes")
    pending = text("SELECT count(*) FROM delivery WHERE delivered_at IS NULL")

    def is_recorded() -> bool:
        with service.database.read() as session:
            return int(session.connection().execute(pending).scalar_one()) == 0

    wait_until(is_recorded, 30, "the results of the pushes")


def _out_of_order(pushes: Sequence[ReceivedPush]) -> int:
    """Return how many pushes arrived before the previous one of the same connection was answered."""
    by_connection: dict[str, list[ReceivedPush]] = defaultdict(list)
    for push in sorted(pushes, key=lambda push: push.position):
        by_connection[push.connection_id].append(push)
    return sum(
        earlier.answered_at > later.received_at for each in by_connection.values() for earlier, later in pairwise(each)
    )


def _cpu_seconds(service: Service) -> float:
    (child,) = [child for name, child in service.children.items() if name in {"up", "worker-0"}]
    return child.cpu_seconds()
