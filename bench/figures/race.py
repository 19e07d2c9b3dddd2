"""Race: a slow older read against a newer one, and which of them the mirror ends up with.

In every round the first read sees the state at its beginning and is answered late; meanwhile the state changes and
another webhook comes. In the rounds named "outlived" the process that reads is frozen in the middle of it until its
lease has ended, and goes on afterwards with the old answer: where there is a second worker, that one has read and
written the new state meanwhile.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from bench.harness.api_client import Client
from bench.harness.signed_webhooks import make
from bench.harness.simulated_meld import Simulated
from bench.harness.stack import DESCRIPTIONS, Service, Stack, embedded, spread, until
from bench.report import Figure
from tests.support.servers import free_ports

ROUNDS = 50
TOGETHER = 6
"""Rounds, of as many connections, that run side by side: fewer than a worker has threads."""

FREEZES = 3
MELD_MS = 50
SLOW_SECONDS = 1.0
TIMEOUT_SECONDS = 3.0
LEASE_SECONDS = TIMEOUT_SECONDS + 10


@dataclass(slots=True)
class Tally:
    """What the rounds of one set-up came to."""

    rounds: int = 0
    outlived: int = 0
    outrun: int = 0
    stale: int = 0
    went_back: int = 0


def measure(stack: Stack) -> Figure:
    """Measure both set-ups, the one over PostgreSQL with two workers."""
    figure = Figure(
        "race",
        "a slow older read against a newer one",
        ["set-up", "rounds", "of them outlived their lease", "reads thrown away", "stale mirrors", "events going back"],
    )
    for name, measured in (("embedded", _embedded(stack)), ("spread", _spread(stack))):
        figure.rows.append(
            [DESCRIPTIONS[name].replace("`worker`", "2 x `worker`"), str(measured.rounds), str(measured.outlived),
             str(measured.outrun), str(measured.stale), str(measured.went_back)]
        )  # fmt: skip
        wrong = measured.stale + measured.went_back
        figure.check(f"stale mirrors, {name}", target="0", measured=str(wrong), holds=wrong == 0)
    figure.notes.append("A mirror is stale if it differs from the simulated Meld once no read is owed any more.")
    return figure


def _embedded(stack: Stack) -> Tally:
    (port,) = free_ports(1)
    with (
        stack.simulated_meld(port, MELD_MS) as meld,
        embedded(stack, port=port, meld=meld.url, timeout=TIMEOUT_SECONDS) as service,
    ):
        races = _Races(service, meld)
        freezes = 1 if stack.is_quick else FREEZES
        races.plain(_plain_rounds(stack))
        for _ in range(freezes):
            races.frozen_whole()
        return races.tally


def _spread(stack: Stack) -> Tally:
    (port,) = free_ports(1)
    with (
        stack.simulated_meld(port, MELD_MS) as meld,
        spread(stack, port=port, meld=meld.url, timeout=TIMEOUT_SECONDS, workers=2) as service,
    ):
        races = _Races(service, meld)
        races.plain(_plain_rounds(stack))
        for _ in range(1 if stack.is_quick else FREEZES):
            races.frozen_worker()
        return races.tally


def _plain_rounds(stack: Stack) -> int:
    return TOGETHER if stack.is_quick else ROUNDS - FREEZES * TOGETHER


class _Races:
    """Runs rounds, several side by side, and judges each."""

    def __init__(self, service: Service, meld: Simulated) -> None:
        self.tally = Tally()
        self._service = service
        self._meld = meld
        self._client = Client(service.port)

    def plain(self, rounds: int) -> None:
        """Let the webhooks of the newer state come while the older read is under way."""
        for start in range(0, rounds, TOGETHER):
            with self._round(min(TOGETHER, rounds - start)) as ids:
                self._change(ids, "NEW")

    def frozen_whole(self) -> None:
        """Freeze the one process in the middle of its reads; the newer webhooks wait at its door."""
        with self._round(TOGETHER) as ids:
            child = self._service.children["up"]
            child.freeze()
            for connection_id in ids:
                self._meld.change(connection_id, "NEW")
            with ThreadPoolExecutor(TOGETHER) as senders:
                answers = [senders.submit(self._send, connection_id, "NEW") for connection_id in ids]
                time.sleep(LEASE_SECONDS + 1)
                child.thaw()
            for answer in answers:
                answer.result()
        self.tally.outlived += TOGETHER

    def frozen_worker(self) -> None:
        """Freeze the worker in the middle of its reads, and let it go on once the other has done them."""
        slow, other = self._service.children["worker-0"], self._service.children["worker-1"]
        other.freeze()
        with self._round(TOGETHER) as ids:
            slow.freeze()
            other.thaw()
            self._change(ids, "NEW")
            until(lambda: self._mirrors(ids) == ["NEW"] * len(ids), 90, "the other worker's reads")
            slow.thaw()
            time.sleep(SLOW_SECONDS + 1)
        self.tally.outlived += TOGETHER

    @contextmanager
    def _round(self, count: int) -> Iterator[list[str]]:
        """Begin slow reads of the old state; afterwards wait until nothing is owed, and judge."""
        thrown_away = self._thrown_away()
        ids = self._meld.create(count)
        self._change(ids, "KNOWN")
        self._service.wait_until_quiet()
        for connection_id in ids:
            self._meld.slow_next(connection_id, SLOW_SECONDS)
        known = self._meld.counts()
        self._change(ids, "OLD")
        until(lambda: all(self._meld.counts()[one] > known[one] for one in ids), 30, "the slow reads")
        yield ids
        self._service.wait_until_quiet()
        self._judge(ids)
        self.tally.outrun += self._thrown_away() - thrown_away

    def _judge(self, ids: Sequence[str]) -> None:
        order = ["ACTIVE", "KNOWN", "OLD", "NEW"]
        for connection_id, mirror in zip(ids, self._mirrors(ids), strict=True):
            self.tally.rounds += 1
            self.tally.stale += mirror != self._meld.status(connection_id)
            events, _ = self._client.events(0, connection_id=connection_id)
            seen = [order.index(event["data"]["current"]["status"]) for event in events]
            self.tally.went_back += seen != sorted(seen)

    def _change(self, ids: Sequence[str], status: str) -> None:
        for connection_id in ids:
            self._meld.change(connection_id, status)
            self._send(connection_id, status)

    def _send(self, connection_id: str, status: str) -> None:
        answer = self._client.send(make(self._service.url, connection_id, status=status))
        assert answer == 200, answer

    def _mirrors(self, ids: Sequence[str]) -> list[str]:
        return [str(self._client.get(f"/api/connections/{one}")["status"]) for one in ids]

    def _thrown_away(self) -> int:
        """Return how many reads the workers have thrown away, as their logs say."""
        return sum(child.output.read_text().count('"outrun"') for child in self._service.children.values())
