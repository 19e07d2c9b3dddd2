"""Figure beside: push latency of a healthy consumer, with and without a dead and a hanging consumer."""

import time
from datetime import datetime
from statistics import median, quantiles

from bench.harness.api_client import ApiClient
from bench.harness.consumer_control import ConsumerControl, run_consumer
from bench.harness.service import DEPLOYMENTS, DESCRIPTIONS, DeploymentFactory, Service
from bench.harness.signed_webhooks import make_webhook
from bench.harness.simulated_meld import MeldControl
from bench.harness.stack import Stack, wait_until
from bench.report import Figure
from tests.support.processes.servers import free_ports

CONNECTIONS = 20
EVENTS_PER_ROUND = 100

EVENT_INTERVAL_SECONDS = 0.1
ROUNDS = 5
"""Rounds of each kind."""

MAX_RATIO = 1.10
DEAD = "http://127.0.0.1:1/"
KINDS = ("alone", "beside them")


def measure(stack: Stack) -> Figure:
    """Measure both deployments."""
    figure = Figure(
        "beside",
        f"an event every {1000 * EVENT_INTERVAL_SECONDS:g} ms to a healthy consumer, alone and beside a dead and a"
        " hanging one: milliseconds from Meld's answer to the healthy consumer, including the commit",
        ["deployment", "healthy consumer", "events", "median", "p95", "max"],
    )
    for deploy in DEPLOYMENTS:
        _measure(figure, stack, deploy)
    figure.notes.append(
        f"Alternating rounds of {EVENTS_PER_ROUND} events without and with the two, on one service. Dead: no process"
        " listens on its port. Hanging: it accepts all pushes and answers none; they time out after 15 s, longer than a"
        " round. Both are subscribed again for each of their rounds, so that a round begins without failures of theirs."
    )
    return figure


def _measure(figure: Figure, stack: Stack, deploy: DeploymentFactory) -> None:
    (port,) = free_ports(1)
    delays: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with (
        run_consumer(stack, 0) as consumed,
        stack.simulated_meld(port, 0) as meld,
        deploy(stack, port=port, meld=meld.url) as service,
    ):
        source = _Source(service, meld)
        client = ApiClient(port)
        client.subscribe("healthy", consumed.url)
        for number in range(1 if stack.is_quick else ROUNDS):
            # The order alternates (ABBA), so that a drift over time affects both kinds alike.
            for kind in KINDS if number % 2 else reversed(KINDS):
                failing = _subscribe_failing(client, consumed) if kind == KINDS[1] else []
                delays[kind] += _round(service, source, consumed)
                for id_ in failing:
                    client.call("DELETE", f"/api/subscriptions/{id_}")
                consumed.abort_hanging()
    for kind, values in delays.items():
        figure.rows.append(
            [DESCRIPTIONS[service.name], kind, str(len(values)), f"{median(values):.1f}",
             f"{quantiles(values, n=20)[-1]:.1f}", f"{max(values):.1f}"]
        )  # fmt: skip
    figure.raw[service.name] = delays
    ratio = median(delays[KINDS[1]]) / median(delays[KINDS[0]])
    figure.check(
        f"median beside them, of the one alone, {service.name}", target=f"<= {MAX_RATIO:.0%}", measured=f"{ratio:.0%}",
        is_met=ratio <= MAX_RATIO,
    )  # fmt: skip


def _subscribe_failing(client: ApiClient, consumed: ConsumerControl) -> list[str]:
    return [client.subscribe("dead", DEAD), client.subscribe("hangs", consumed.hanging_url)]


class _Source:
    """Connections of the simulated Meld that change on request."""

    def __init__(self, service: Service, meld: MeldControl) -> None:
        self._client = ApiClient(service.port)
        self._url = service.url
        self._meld = meld
        self._ids = meld.create(CONNECTIONS)
        self._changes = 0
        for id_ in self._ids:
            assert self._client.send(make_webhook(self._url, id_)) == 200
        wait_until(lambda: self._client.end_of_feed() == CONNECTIONS, 30, "the connections in the mirror")

    def set_status(self) -> None:
        """Change the next connection, and announce it."""
        self._changes += 1
        id_, status = self._ids[self._changes % CONNECTIONS], f"STATUS_{self._changes}"
        self._meld.set_status(id_, status)
        assert self._client.send(make_webhook(self._url, id_, status=status)) == 200


def _round(service: Service, source: _Source, consumed: ConsumerControl) -> list[float]:
    """Change connections at a fixed rate; return the latency of each event in milliseconds."""
    client = ApiClient(service.port)
    after = client.end_of_feed()
    began = time.monotonic()
    for number in range(EVENTS_PER_ROUND):
        time.sleep(max(began + number * EVENT_INTERVAL_SECONDS - time.monotonic(), 0))
        source.set_status()
    wait_until(service.is_idle_except_confirming, 30, "reads")
    # Two changes that one read sees are one event, so the expected count comes from the feed.
    expected = client.end_of_feed() - CONNECTIONS
    wait_until(lambda: consumed.count() >= expected, 30, "pushes to the healthy consumer")
    events, _next = client.events(after)
    times = {event["position"]: datetime.fromisoformat(event["time"]).timestamp() for event in events}
    return [1000 * (push.received_at - times[push.position]) for push in consumed.pushes() if push.position in times]
