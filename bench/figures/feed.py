"""Figure feed: latency from an event to its consumers: long poll, server-sent events, push, handler."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from bench.harness import bench_handler
from bench.harness.api_client import ApiClient
from bench.harness.consumer_control import run_consumer
from bench.harness.service import DEPLOYMENTS, DESCRIPTIONS, DeploymentFactory, Env, Service
from bench.harness.signed_webhooks import make_webhook
from bench.harness.simulated_meld import MeldControl
from bench.harness.stack import ADMIN_TOKEN, Stack, wait_until
from bench.report import Figure
from tests.support.processes.servers import free_ports
from tests.support.sse_reader import SseReader

SAMPLES = 100
MORE_READERS = 50
"""Additional readers of the stream, besides the measured one."""

Method = Callable[[Service, MeldControl, int], list[float]]
"""Waits for a number of events, one after another; returns the latency of each in milliseconds."""

Times = dict[int, float]
"""The Unix time of receipt of each event, by position."""


def measure(stack: Stack) -> Figure:
    """Measure all methods on both deployments."""
    figure = Figure(
        "feed",
        "one event at a time: milliseconds from Meld's answer to the consumer, including the commit",
        ["deployment", "reader", "samples", "median", "p95", "max"],
    )
    for deploy in DEPLOYMENTS:
        _measure(figure, stack, deploy)
    figure.notes.append(
        "From the event's `time`, at which the worker had Meld's answer. So the latency includes the commit; SQLite"
        " does not show the time of a commit."
    )
    return figure


def _measure(figure: Figure, stack: Stack, deploy: DeploymentFactory) -> None:
    _measure_methods(
        figure,
        stack,
        deploy,
        {
            "long poll": _by_long_poll,
            "stream": partial(_by_stream, crowd=0),
            f"stream, one of {MORE_READERS + 1}": partial(_by_stream, crowd=MORE_READERS),
            "push": partial(_by_push, stack),
        },
    )
    # In a separate service, since the handler would also run during the other measurements.
    times_path = stack.folder() / "times"
    env = {"MELDWATCH_HANDLERS": bench_handler.__name__, bench_handler.PATH_VARIABLE: str(times_path)}
    _measure_methods(figure, stack, deploy, {"handler": partial(_by_handler, times_path)}, env)


def _measure_methods(
    figure: Figure, stack: Stack, deploy: DeploymentFactory, methods: Mapping[str, Method], env: Env = None
) -> None:
    (port,) = free_ports(1)
    with stack.simulated_meld(port, 0) as meld, deploy(stack, port=port, meld=meld.url, env=env) as service:
        for method, samples in methods.items():
            values = samples(service, meld, 10 if stack.is_quick else SAMPLES)
            figure.rows.append(
                [DESCRIPTIONS[service.name], method, str(len(values)), f"{median(values):.1f}",
                 f"{quantiles(values, n=20)[-1]:.1f}", f"{max(values):.1f}"]
            )  # fmt: skip
            figure.raw[f"{service.name}, {method}"] = values


def _by_long_poll(service: Service, meld: MeldControl, count: int) -> list[float]:
    client, times, is_stopped = ApiClient(service.port), Times(), threading.Event()

    def follow(after: int) -> None:
        while not is_stopped.is_set():
            events, after = client.events(after, wait=2)
            times.update(dict.fromkeys((event["position"] for event in events), time.time()))

    reader = threading.Thread(target=follow, args=[client.end_of_feed()])
    reader.start()
    try:
        return _samples(service, meld, count, times.get)
    finally:
        is_stopped.set()
        reader.join()


def _by_stream(service: Service, meld: MeldControl, count: int, *, crowd: int) -> list[float]:
    url = f"http://127.0.0.1:{service.port}"
    readers = [SseReader(url, ADMIN_TOKEN) for _ in range(crowd + 1)]
    last = readers[-1]
    last.wait_for_begin()
    offset = time.time() - time.monotonic()

    def received(position: int) -> float | None:
        times = dict(zip(last.positions, last.times, strict=False))
        return times[position] + offset if position in times else None

    try:
        return _samples(service, meld, count, received)
    finally:
        for reader in readers:
            reader.close()


def _by_push(stack: Stack, service: Service, meld: MeldControl, count: int) -> list[float]:
    client = ApiClient(service.port)
    with run_consumer(stack, 0) as consumed:
        id_ = client.subscribe("bench", consumed.url)
        values = _samples(service, meld, count, consumed.first_received_at)
        client.call("DELETE", f"/api/subscriptions/{id_}")
        return values


def _by_handler(path: Path, service: Service, meld: MeldControl, count: int) -> list[float]:
    def received(position: int) -> float | None:
        lines = path.read_text().splitlines() if path.exists() else []
        times = dict(line.split(" ") for line in lines)
        return float(times[str(position)]) if str(position) in times else None

    return _samples(service, meld, count, received)


def _samples(service: Service, meld: MeldControl, count: int, received: Callable[[int], float | None]) -> list[float]:
    """Change a connection that many times; return the latency of each event in milliseconds."""
    client = ApiClient(service.port)
    (connection_id,) = meld.create(1)
    values = []
    # The first change creates the connection's mirror row and is not measured.
    for number in range(count + 1):
        after = client.end_of_feed()
        meld.set_status(connection_id, f"STATUS_{number}")
        assert client.send(make_webhook(service.url, connection_id, status=f"STATUS_{number}")) == 200
        wait_until(partial(received, after + 1), 30, "the event")
        events, _next = client.events(after)
        at = received(after + 1)
        assert at is not None
        values.append(1000 * (at - datetime.fromisoformat(events[0]["time"]).timestamp()))
        wait_until(service.is_idle_except_confirming, 30, "reads")
    return values[1:]
