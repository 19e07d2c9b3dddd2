"""Push: how fast one worker process pushes what is owed to one consumer, in order, each event once."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from sqlalchemy import text

from bench.harness.api_client import Client
from bench.harness.consumer_control import Consumed, ReceivedPush, consumer
from bench.harness.stack import DESCRIPTIONS, SETUPS, Service, Setup, Stack, until
from bench.report import Figure
from tests.support.scripted_consumer import emit
from tests.support.servers import free_ports

EVENTS = 10_000
CONNECTIONS = 1_000
SECONDS = 0.005
THREADS = (8, 32)
ROUNDS = 3


def measure(stack: Stack) -> Figure:
    """Measure both set-ups with few threads and with many."""
    count = CONNECTIONS if stack.is_quick else EVENTS
    figure = Figure(
        "push",
        f"{count} events of {CONNECTIONS} connections to one subscription; its consumer answers in"
        f" {1000 * SECONDS:g} ms: pushes a second of one worker process",
        ["set-up", "threads", "rounds", "possible", "pushes/s", "CPU s per 1,000", "out of order", "repeats"],
    )
    for setup in SETUPS:
        for threads in THREADS:
            _measure(figure, stack, setup, threads, count)
    figure.notes.append(
        f"Possible is half of the threads / {SECONDS} s: more of them one subscription never gets. The events are in"
        " the feed before the subscription is made, which begins with the first of them; from the first one's arrival"
        " to the last one's answer. Medians."
    )
    figure.notes.append("CPU is that of the process with the worker in it; embedded, it also makes the subscription.")
    return figure


def _measure(figure: Figure, stack: Stack, setup: Setup, threads: int, count: int) -> None:
    rounds = [_round(stack, setup, threads, count) for _ in range(1 if stack.is_quick else ROUNDS)]
    rate, cpu = (median(each[index] for each in rounds) for index in (0, 1))
    wrong, repeats = (sum(int(each[index]) for each in rounds) for index in (2, 3))
    name = "embedded" if setup is SETUPS[0] else "spread"
    possible = (threads // 2) / SECONDS
    figure.rows.append(
        [DESCRIPTIONS[name], str(threads), str(len(rounds)), f"{possible:.0f}", f"{rate:.0f}", f"{cpu:.2f}",
         str(wrong), str(repeats)]
    )  # fmt: skip
    figure.raw[f"{name}, {threads} threads"] = rounds
    figure.check(
        f"order, each once, {name}, {threads} threads", target="all", measured=f"{wrong} wrong, {repeats} repeats",
        holds=wrong == repeats == 0,
    )  # fmt: skip


def _round(stack: Stack, setup: Setup, threads: int, count: int) -> tuple[float, float, int, int]:
    """Return pushes a second, CPU seconds for 1,000 of them, how many were out of order, and how many came again."""
    port, meld = free_ports(2)
    with (
        consumer(stack, SECONDS) as consumed,
        setup(stack, port=port, meld=f"http://127.0.0.1:{meld}", threads=threads) as service,
    ):
        for _ in range(count // CONNECTIONS):
            emit(service.database, *(f"connection-{number:04}" for number in range(CONNECTIONS)))
        cpu = _cpu_seconds(service)
        Client(port).subscribe("bench", consumed.url, from_position=0)
        _wait_for(service, consumed, count)
        cpu = _cpu_seconds(service) - cpu
        pushes = consumed.pushes()
    assert len({push.position for push in pushes}) == count
    seconds = max(push.answered for push in pushes) - min(push.came for push in pushes)
    return count / seconds, 1000 * cpu / count, _out_of_order(pushes), len(pushes) - count


def _wait_for(service: Service, consumed: Consumed, count: int) -> None:
    until(lambda: consumed.count() >= count, 300, "the pushes")
    pending = text("SELECT count(*) FROM delivery WHERE delivered_at IS NULL")

    def is_noted() -> bool:
        with service.database.read() as session:
            return int(session.connection().execute(pending).scalar_one()) == 0

    until(is_noted, 30, "what came of the pushes")


def _out_of_order(pushes: Sequence[ReceivedPush]) -> int:
    """Return how many came before the one before them, of the same connection, was answered."""
    by_connection: dict[str, list[ReceivedPush]] = defaultdict(list)
    for push in sorted(pushes, key=lambda push: push.position):
        by_connection[push.connection_id].append(push)
    return sum(earlier.answered > later.came for each in by_connection.values() for earlier, later in pairwise(each))


def _cpu_seconds(service: Service) -> float:
    (child,) = [child for name, child in service.children.items() if name in {"up", "worker-0"}]
    return child.cpu_seconds()
