"""Figure burst: reads of Meld caused by 100 concurrent webhooks for one connection, and by repeats of one event."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from bench.harness.api_client import ApiClient, send_concurrently
from bench.harness.service import DEPLOYMENTS, DESCRIPTIONS, DeploymentFactory, Service
from bench.harness.signed_webhooks import SignedWebhook, make_webhook
from bench.harness.simulated_meld import MeldControl
from bench.harness.stack import Stack
from bench.report import Figure
from tests.support.processes.servers import free_ports

LATENCIES_MS = (0, 50, 500)
ROUNDS = 10
BURST = 100
REPEATS = 20
MAX_READS = 3
QUIET_SECONDS = 2.5
"""Wait after the last read: two runs of the scheduler, so that later reads are counted too."""


def measure(stack: Stack) -> Figure:
    """Measure both deployments with several latencies of Meld."""
    figure = Figure(
        "burst",
        f"{BURST} webhooks at once for one connection, and one event {REPEATS} times: reads of Meld",
        [
            "deployment",
            "Meld answers in",
            f"bursts of {BURST}: how many x reads of each",
            f"one event {REPEATS} x at once: reads",
            "then in a row",
            "then at once",
        ],
    )
    for deploy in DEPLOYMENTS:
        for latency_ms in LATENCIES_MS:
            _measure(figure, stack, deploy, latency_ms)
    figure.notes.append(
        "Every webhook was answered 200. The simulated Meld counts the reads, after none has been pending for"
        f" {QUIET_SECONDS} s. Reads are the maximum of {ROUNDS} rounds, each with its own connection."
    )
    return figure


def _measure(figure: Figure, stack: Stack, deploy: DeploymentFactory, latency_ms: int) -> None:
    (port,) = free_ports(1)
    rounds = 2 if stack.is_quick else ROUNDS
    with stack.simulated_meld(port, latency_ms) as meld, deploy(stack, port=port, meld=meld.url) as service:
        sender = _Sender(service, meld, rounds)
        bursts = sender.bursts()
        new_event, in_a_row, at_once = sender.repeats()
    distribution = ", ".join(f"{times} x {reads}" for reads, times in sorted(Counter(bursts).items()))
    figure.rows.append(
        [
            DESCRIPTIONS[service.name],
            f"{latency_ms} ms",
            distribution,
            str(max(new_event)),
            str(max(in_a_row)),
            str(max(at_once)),
        ]
    )
    where = f"{service.name}, Meld answers in {latency_ms} ms"
    most_reads, repeated = max(bursts), max(*in_a_row, *at_once)
    figure.check(
        f"reads of a burst, {where}",
        target=f"<= {MAX_READS}",
        measured=str(most_reads),
        is_met=0 < most_reads <= MAX_READS,
    )
    figure.check(f"reads of repeats, {where}", target="0", measured=str(repeated), is_met=repeated == 0)


class _Sender:
    """Sends webhooks for one connection after another and counts the reads of each."""

    def __init__(self, service: Service, meld: MeldControl, rounds: int) -> None:
        self._service = service
        self._meld = meld
        self._rounds = rounds
        self._client = ApiClient(service.port)

    def bursts(self) -> list[int]:
        """Return the reads caused by each burst."""
        ids = self._create_known_connections()
        (cost,) = self._count_reads(ids, [lambda one: self._send_concurrently([self._make(one) for _ in range(BURST)])])
        return cost

    def repeats(self) -> list[list[int]]:
        """Return the reads caused by a new event sent several times, then by sequential and concurrent repeats."""
        webhooks = {connection_id: self._make(connection_id) for connection_id in self._create_known_connections()}
        return self._count_reads(
            list(webhooks),
            [
                lambda one: self._send_concurrently([webhooks[one]] * REPEATS),
                lambda one: self._send_sequentially([webhooks[one]] * REPEATS),
                lambda one: self._send_concurrently([webhooks[one]] * REPEATS),
            ],
        )

    def _count_reads(self, ids: Sequence[str], actions: Sequence[Callable[[str], None]]) -> list[list[int]]:
        """Run each action for every connection; return the reads that each caused."""
        counts = [self._read_counts(ids)]
        for action in actions:
            for connection_id in ids:
                action(connection_id)
                self._service.wait_until_idle()
            counts.append(self._read_counts(ids))
        return [[b - a for a, b in zip(before, after, strict=True)] for before, after in pairwise(counts)]

    def _read_counts(self, ids: Sequence[str]) -> list[int]:
        self._service.wait_until_idle()
        time.sleep(QUIET_SECONDS)
        counts = self._meld.counts()
        return [counts.get(connection_id, 0) for connection_id in ids]

    def _create_known_connections(self) -> list[str]:
        """Create connections that have been read once, as most connections have when a webhook arrives."""
        ids = self._meld.create(self._rounds)
        self._send_sequentially([self._make(connection_id) for connection_id in ids])
        return ids

    def _make(self, connection_id: str) -> SignedWebhook:
        return make_webhook(self._service.url, connection_id)

    def _send_concurrently(self, webhooks: Sequence[SignedWebhook]) -> None:
        answers = send_concurrently(self._service.port, webhooks)
        assert answers == {200: len(webhooks)}, answers

    def _send_sequentially(self, webhooks: Sequence[SignedWebhook]) -> None:
        answers = {self._client.send(webhook) for webhook in webhooks}
        assert answers == {200}, answers
