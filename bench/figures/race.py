"""Figure race: a slow older read against a newer one; the mirror must end up with the newer state.

In every round, a read sees the state of its beginning and is answered late; meanwhile the state changes and another
webhook arrives. In the rounds "outlived their lease", the reading process is suspended (SIGSTOP) until its lease has
expired, and then continues with the old answer. With a second worker, that one has read and stored the new state.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from bench.harness.api_client import ApiClient
from bench.harness.service import DESCRIPTIONS, Service, distributed, embedded
from bench.harness.signed_webhooks import make_webhook
from bench.harness.simulated_meld import MeldControl
from bench.harness.stack import Stack, wait_until
from bench.report import Figure
from tests.support.processes.servers import free_ports

ROUNDS = 50
CONCURRENT_ROUNDS = 6
"""Concurrent rounds, each with its own connection; fewer than the threads of a worker."""

SUSPENDED_ROUNDS = 3
MELD_MS = 50
SLOW_SECONDS = 1.0
TIMEOUT_SECONDS = 3.0
LEASE_SECONDS = TIMEOUT_SECONDS + 10


@dataclass(slots=True)
class RaceResult:
    """The result of the rounds of one deployment."""

    rounds: int = 0
    outlived_lease: int = 0
    discarded: int = 0
    stale: int = 0
    events_going_back: int = 0


def measure(stack: Stack) -> Figure:
    """Measure both deployments; the distributed one has two workers."""
    figure = Figure(
        "race",
        "a slow older read against a newer one",
        ["deployment", "rounds", "outlived their lease", "reads discarded", "stale mirrors", "events going back"],
    )
    for name, measured in (("embedded", _embedded(stack)), ("distributed", _distributed(stack))):
        figure.rows.append(
            [DESCRIPTIONS[name].replace("`worker`", "2 x `worker`"), str(measured.rounds), str(measured.outlived_lease),
             str(measured.discarded), str(measured.stale), str(measured.events_going_back)]
        )  # fmt: skip
        wrong = measured.stale + measured.events_going_back
        figure.check(f"stale mirrors, {name}", target="0", measured=str(wrong), is_met=wrong == 0)
    figure.notes.append("A mirror is stale if it differs from the simulated Meld once no read is pending.")
    return figure


def _embedded(stack: Stack) -> RaceResult:
    (port,) = free_ports(1)
    with (
        stack.simulated_meld(port, MELD_MS) as meld,
        embedded(stack, port=port, meld=meld.url, timeout=TIMEOUT_SECONDS) as service,
    ):
        races = _Races(service, meld)
        freezes = 1 if stack.is_quick else SUSPENDED_ROUNDS
        races.plain(_plain_rounds(stack))
        for _ in range(freezes):
            races.suspended_service()
        return races.result


def _distributed(stack: Stack) -> RaceResult:
    (port,) = free_ports(1)
    with (
        stack.simulated_meld(port, MELD_MS) as meld,
        distributed(stack, port=port, meld=meld.url, timeout=TIMEOUT_SECONDS, workers=2) as service,
    ):
        races = _Races(service, meld)
        races.plain(_plain_rounds(stack))
        for _ in range(1 if stack.is_quick else SUSPENDED_ROUNDS):
            races.suspended_worker()
        return races.result


def _plain_rounds(stack: Stack) -> int:
    return CONCURRENT_ROUNDS if stack.is_quick else ROUNDS - SUSPENDED_ROUNDS * CONCURRENT_ROUNDS


class _Races:
    """Runs rounds, several concurrently, and checks each."""

    def __init__(self, service: Service, meld: MeldControl) -> None:
        self.result = RaceResult()
        self._service = service
        self._meld = meld
        self._client = ApiClient(service.port)

    def plain(self, rounds: int) -> None:
        """Send the webhooks of the newer state during the older read."""
        for start in range(0, rounds, CONCURRENT_ROUNDS):
            with self._round(min(CONCURRENT_ROUNDS, rounds - start)) as ids:
                self._change(ids, "NEW")

    def suspended_service(self) -> None:
        """Suspend the only process during its reads; the newer webhooks wait for it."""
        with self._round(CONCURRENT_ROUNDS) as ids:
            child = self._service.children["up"]
            child.suspend()
            for connection_id in ids:
                self._meld.set_status(connection_id, "NEW")
            with ThreadPoolExecutor(CONCURRENT_ROUNDS) as senders:
                answers = [senders.submit(self._send, connection_id, "NEW") for connection_id in ids]
                time.sleep(LEASE_SECONDS + 1)
                child.resume()
            for answer in answers:
                answer.result()
        self.result.outlived_lease += CONCURRENT_ROUNDS

    def suspended_worker(self) -> None:
        """Suspend a worker during its reads, and resume it once the other one has done them."""
        slow, other = self._service.children["worker-0"], self._service.children["worker-1"]
        other.suspend()
        with self._round(CONCURRENT_ROUNDS) as ids:
            slow.suspend()
            other.resume()
            self._change(ids, "NEW")
            wait_until(lambda: self._mirrors(ids) == ["NEW"] * len(ids), 90, "reads of the other worker")
            slow.resume()
            time.sleep(SLOW_SECONDS + 1)
        self.result.outlived_lease += CONCURRENT_ROUNDS

    @contextmanager
    def _round(self, count: int) -> Iterator[list[str]]:
        """Begin slow reads of the old state; after the block wait until no read is pending, and check."""
        discarded_before = self._discarded_reads()
        ids = self._meld.create(count)
        self._change(ids, "KNOWN")
        self._service.wait_until_idle()
        for connection_id in ids:
            self._meld.delay_next_read(connection_id, SLOW_SECONDS)
        known = self._meld.counts()
        self._change(ids, "OLD")
        wait_until(lambda: all(self._meld.counts()[one] > known[one] for one in ids), 30, "slow reads")
        yield ids
        self._service.wait_until_idle()
        self._check_round(ids)
        self.result.discarded += self._discarded_reads() - discarded_before

    def _check_round(self, ids: Sequence[str]) -> None:
        order = ["ACTIVE", "KNOWN", "OLD", "NEW"]
        for connection_id, mirror in zip(ids, self._mirrors(ids), strict=True):
            self.result.rounds += 1
            self.result.stale += mirror != self._meld.status(connection_id)
            events, _ = self._client.events(0, connection_id=connection_id)
            seen = [order.index(event["data"]["current"]["status"]) for event in events]
            self.result.events_going_back += seen != sorted(seen)

    def _change(self, ids: Sequence[str], status: str) -> None:
        for connection_id in ids:
            self._meld.set_status(connection_id, status)
            self._send(connection_id, status)

    def _send(self, connection_id: str, status: str) -> None:
        answer = self._client.send(make_webhook(self._service.url, connection_id, status=status))
        assert answer == 200, answer

    def _mirrors(self, ids: Sequence[str]) -> list[str]:
        return [str(self._client.get(f"/api/connections/{one}")["status"]) for one in ids]

    def _discarded_reads(self) -> int:
        """Return how many reads the workers have discarded, from their logs."""
        return sum(child.output.read_text().count('"read discarded"') for child in self._service.children.values())
