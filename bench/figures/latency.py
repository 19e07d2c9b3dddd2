"""Figure latency: from a webhook to its event in the feed, with a Meld that answers in 50 ms."""

import queue
import random
import threading
import time
from statistics import median, quantiles

from bench.harness.api_client import ApiClient
from bench.harness.service import DEPLOYMENTS, DESCRIPTIONS, DeploymentFactory, Service
from bench.harness.signed_webhooks import make_webhook
from bench.harness.simulated_meld import MeldControl
from bench.harness.stack import Stack
from bench.report import Figure
from tests.support.processes.servers import free_ports

MELD_MS = 50
CONNECTIONS = 10
SAMPLES = 100
MAX_MEDIAN_MS = 150
PAUSES = random.Random("pauses")


def measure(stack: Stack) -> Figure:
    """Measure both deployments."""
    figure = Figure(
        "latency",
        f"one webhook at a time, Meld answers in {MELD_MS} ms: milliseconds until its event is read from the feed",
        ["deployment", "samples", "median", "p95", "max", "until the 200, median"],
    )
    for deploy in DEPLOYMENTS:
        _measure(figure, stack, deploy)
    figure.notes.append(
        "From just before the webhook is sent until a long poll (`GET /api/events?wait=30`) has answered with its"
        " event. A random pause of up to 0.25 s separates the samples."
    )
    return figure


def _measure(figure: Figure, stack: Stack, deploy: DeploymentFactory) -> None:
    (port,) = free_ports(1)
    with stack.simulated_meld(port, MELD_MS) as meld, deploy(stack, port=port, meld=meld.url) as service:
        samples = _samples(service, meld, 10 if stack.is_quick else SAMPLES)
    answers, events = ([1000 * sample[index] for sample in samples] for index in (0, 1))
    middle, p95 = median(events), quantiles(events, n=20)[-1]
    figure.rows.append(
        [DESCRIPTIONS[service.name], str(len(events)), f"{middle:.0f}", f"{p95:.0f}", f"{max(events):.0f}",
         f"{median(answers):.1f}"]
    )  # fmt: skip
    figure.raw[service.name] = events
    figure.check(
        f"median, {service.name}",
        target=f"<= {MAX_MEDIAN_MS} ms",
        measured=f"{middle:.0f} ms",
        is_met=middle <= MAX_MEDIAN_MS,
    )


def _samples(service: Service, meld: MeldControl, count: int) -> list[tuple[float, float]]:
    client = ApiClient(service.port)
    ids = meld.create(CONNECTIONS)
    for connection_id in ids:
        assert client.send(make_webhook(service.url, connection_id)) == 200
    service.wait_until_idle()
    reader = _Reader(service.port, client.end_of_feed())
    samples = []
    for number in range(count):
        connection_id, status = ids[number % len(ids)], f"STATUS_{number}"
        meld.set_status(connection_id, status)
        webhook = make_webhook(service.url, connection_id, status=status)
        time.sleep(PAUSES.uniform(0.05, 0.25))
        began = time.monotonic()
        assert client.send(webhook) == 200
        answered = time.monotonic()
        samples.append((answered - began, reader.wait_for(status) - began))
    return samples


class _Reader:
    """Follows the feed in a thread, as a consumer does."""

    def __init__(self, port: int, after: int) -> None:
        self._client = ApiClient(port)
        self._after = after
        self._seen: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def wait_for(self, status: str) -> float:
        """Return when the event with this status was read."""
        while True:
            found, at = self._seen.get(timeout=60)
            if found == status:
                return at

    def _run(self) -> None:
        try:
            while True:
                events, self._after = self._client.events(self._after, wait=30)
                at = time.monotonic()
                for event in events:
                    self._seen.put((event["data"]["current"]["status"], at))
        except OSError:
            return  # the service has stopped
