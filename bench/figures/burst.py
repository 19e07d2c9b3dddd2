"""Burst: how many reads of Meld a hundred webhooks for one connection cost, and what repeats of one event cost."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from bench.harness.api_client import Client, send_at_once
from bench.harness.signed_webhooks import Signed, make
from bench.harness.simulated_meld import Simulated
from bench.harness.stack import DESCRIPTIONS, SETUPS, Service, Setup, Stack
from bench.report import Figure
from tests.support.servers import free_ports

LATENCIES_MS = (0, 50, 500)
ROUNDS = 10
BURST = 100
REPEATS = 20
MOST_READS = 3
SETTLE_SECONDS = 2.5
"""After the last work: two passes of the clock, so that a read that is still to come is seen."""


def measure(stack: Stack) -> Figure:
    """Measure both set-ups, beside a Meld of several latencies."""
    figure = Figure(
        "burst",
        f"{BURST} webhooks at once for one connection, and one event {REPEATS} times: reads of Meld",
        [
            "set-up",
            "Meld answers in",
            f"bursts of {BURST}: how many x reads of each",
            f"one event {REPEATS} x at once: reads",
            "then in a row",
            "then at once",
        ],
    )
    for setup in SETUPS:
        for latency_ms in LATENCIES_MS:
            _measure(figure, stack, setup, latency_ms)
    figure.notes.append(
        "Every webhook was answered 200. The simulated Meld counts the reads, after none has been owed for"
        f" {SETTLE_SECONDS} s. Reads are the most of {ROUNDS} rounds, each of a connection of its own."
    )
    return figure


def _measure(figure: Figure, stack: Stack, setup: Setup, latency_ms: int) -> None:
    (port,) = free_ports(1)
    rounds = 2 if stack.is_quick else ROUNDS
    with stack.simulated_meld(port, latency_ms) as meld, setup(stack, port=port, meld=meld.url) as service:
        sender = _Sender(service, meld, rounds)
        bursts = sender.bursts()
        news, in_a_row, at_once = sender.repeats()
    spectrum = ", ".join(f"{times} x {reads}" for reads, times in sorted(Counter(bursts).items()))
    figure.rows.append(
        [
            DESCRIPTIONS[service.name],
            f"{latency_ms} ms",
            spectrum,
            str(max(news)),
            str(max(in_a_row)),
            str(max(at_once)),
        ]
    )
    where = f"{service.name}, Meld answers in {latency_ms} ms"
    most, repeated = max(bursts), max(*in_a_row, *at_once)
    figure.check(
        f"reads of a burst, {where}", target=f"<= {MOST_READS}", measured=str(most), holds=0 < most <= MOST_READS
    )
    figure.check(f"reads of repeats, {where}", target="0", measured=str(repeated), holds=repeated == 0)


class _Sender:
    """Sends to one connection after the other, and counts afterwards what each has cost."""

    def __init__(self, service: Service, meld: Simulated, rounds: int) -> None:
        self._service = service
        self._meld = meld
        self._rounds = rounds
        self._client = Client(service.port)

    def bursts(self) -> list[int]:
        """Return how many reads each burst has cost."""
        ids = self._known()
        (cost,) = self._costs(ids, [lambda one: self._at_once([self._make(one) for _ in range(BURST)])])
        return cost

    def repeats(self) -> list[list[int]]:
        """Return the reads of each new event sent several times at once, of its repeats in a row, of those at once."""
        webhooks = {connection_id: self._make(connection_id) for connection_id in self._known()}
        return self._costs(
            list(webhooks),
            [
                lambda one: self._at_once([webhooks[one]] * REPEATS),
                lambda one: self._in_a_row([webhooks[one]] * REPEATS),
                lambda one: self._at_once([webhooks[one]] * REPEATS),
            ],
        )

    def _costs(self, ids: Sequence[str], acts: Sequence[Callable[[str], None]]) -> list[list[int]]:
        """Do each act to every connection, and return the reads that each has cost."""
        counts = [self._counts(ids)]
        for act in acts:
            for connection_id in ids:
                act(connection_id)
                self._service.wait_until_quiet()
            counts.append(self._counts(ids))
        return [[b - a for a, b in zip(before, after, strict=True)] for before, after in pairwise(counts)]

    def _counts(self, ids: Sequence[str]) -> list[int]:
        self._service.wait_until_quiet()
        time.sleep(SETTLE_SECONDS)
        counts = self._meld.counts()
        return [counts.get(connection_id, 0) for connection_id in ids]

    def _known(self) -> list[str]:
        """Return new connections, each read once: most webhooks are about one that is known."""
        ids = self._meld.create(self._rounds)
        self._in_a_row([self._make(connection_id) for connection_id in ids])
        return ids

    def _make(self, connection_id: str) -> Signed:
        return make(self._service.url, connection_id)

    def _at_once(self, webhooks: Sequence[Signed]) -> None:
        answers = send_at_once(self._service.port, webhooks)
        assert answers == {200: len(webhooks)}, answers

    def _in_a_row(self, webhooks: Sequence[Signed]) -> None:
        answers = {self._client.send(webhook) for webhook in webhooks}
        assert answers == {200}, answers
