"""Beside: how long a healthy consumer waits for its events, with and without a dead and a hanging one beside it."""

import time
from datetime import datetime
from statistics import median, quantiles

from bench.harness.api_client import Client
from bench.harness.consumer_control import Consumed, consumer
from bench.harness.signed_webhooks import make
from bench.harness.simulated_meld import Simulated
from bench.harness.stack import DESCRIPTIONS, SETUPS, Service, Setup, Stack, until
from bench.report import Figure
from tests.support.servers import free_ports

CONNECTIONS = 20
EVENTS = 100
"""In a round."""

EVERY_SECONDS = 0.1
ROUNDS = 5
"""Of each kind."""

MOST = 1.10
DEAD = "http://127.0.0.1:1/"
KINDS = ("alone", "beside them")


def measure(stack: Stack) -> Figure:
    """Measure both set-ups."""
    figure = Figure(
        "beside",
        f"an event each {1000 * EVERY_SECONDS:g} ms, to a healthy consumer alone, and to it beside a dead and a hanging"
        " one: milliseconds from Meld's answer, over the commit, until the healthy one has it",
        ["set-up", "the healthy one", "events", "median", "p95", "most"],
    )
    for setup in SETUPS:
        _measure(figure, stack, setup)
    figure.notes.append(
        f"Rounds of {EVENTS} events in turn without and with the two, by one service. Dead: nobody listens at its port."
        " Hanging: it accepts all pushes and answers none, which are given up after 15 s, longer than a round takes."
        " Both are subscribed anew for each of their rounds, so that nothing is known of them when it begins."
    )
    return figure


def _measure(figure: Figure, stack: Stack, setup: Setup) -> None:
    (port,) = free_ports(1)
    delays: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with (
        consumer(stack, 0) as consumed,
        stack.simulated_meld(port, 0) as meld,
        setup(stack, port=port, meld=meld.url) as service,
    ):
        source = _Source(service, meld)
        client = Client(port)
        client.subscribe("healthy", consumed.url)
        for number in range(1 if stack.is_quick else ROUNDS):
            # The first and the last of four are alike: what drifts with time is nobody's.
            for kind in KINDS if number % 2 else reversed(KINDS):
                bad = _subscribe_bad(client, consumed) if kind == KINDS[1] else []
                delays[kind] += _round(service, source, consumed)
                for id_ in bad:
                    client.act("DELETE", f"/api/subscriptions/{id_}")
                consumed.end_hanging()
    for kind, values in delays.items():
        figure.rows.append(
            [DESCRIPTIONS[service.name], kind, str(len(values)), f"{median(values):.1f}",
             f"{quantiles(values, n=20)[-1]:.1f}", f"{max(values):.1f}"]
        )  # fmt: skip
    figure.raw[service.name] = delays
    ratio = median(delays[KINDS[1]]) / median(delays[KINDS[0]])
    figure.check(
        f"median beside them, of the one alone, {service.name}", target=f"<= {MOST:.0%}", measured=f"{ratio:.0%}",
        holds=ratio <= MOST,
    )  # fmt: skip


def _subscribe_bad(client: Client, consumed: Consumed) -> list[str]:
    return [client.subscribe("dead", DEAD), client.subscribe("hangs", consumed.hanging_url)]


class _Source:
    """Connections that change when they are told to."""

    def __init__(self, service: Service, meld: Simulated) -> None:
        self._client = Client(service.port)
        self._url = service.url
        self._meld = meld
        self._ids = meld.create(CONNECTIONS)
        self._changes = 0
        for id_ in self._ids:
            assert self._client.send(make(self._url, id_)) == 200
        until(lambda: self._client.end_of_feed() == CONNECTIONS, 30, "the connections in the mirror")

    def change(self) -> None:
        """Change the next connection, and announce it."""
        self._changes += 1
        id_, status = self._ids[self._changes % CONNECTIONS], f"STATUS_{self._changes}"
        self._meld.change(id_, status)
        assert self._client.send(make(self._url, id_, status=status)) == 200


def _round(service: Service, source: _Source, consumed: Consumed) -> list[float]:
    """Change connections in a steady flow; return how long each event took, in milliseconds."""
    client = Client(service.port)
    after = client.end_of_feed()
    began = time.monotonic()
    for number in range(EVENTS):
        time.sleep(max(began + number * EVERY_SECONDS - time.monotonic(), 0))
        source.change()
    until(service.is_read, 30, "the end of the reads")
    # Two changes of a connection that are read at once are one event, so what has come is held against the feed.
    owed = client.end_of_feed() - CONNECTIONS
    until(lambda: consumed.count() >= owed, 30, "the pushes to the healthy one")
    events, _next = client.events(after)
    times = {event["position"]: datetime.fromisoformat(event["time"]).timestamp() for event in events}
    return [1000 * (push.came - times[push.position]) for push in consumed.pushes() if push.position in times]
