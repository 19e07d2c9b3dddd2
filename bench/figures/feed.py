"""Feed: from the commit of an event until who wants it has it: by long poll, by stream, by push, in a handler."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from bench.harness import bench_handler
from bench.harness.api_client import Client
from bench.harness.consumer_control import consumer
from bench.harness.signed_webhooks import make
from bench.harness.simulated_meld import Simulated
from bench.harness.stack import DESCRIPTIONS, SETUPS, TOKEN, Env, Service, Setup, Stack, until
from bench.report import Figure
from tests.support.servers import free_ports
from tests.support.sse_reader import Reader

SAMPLES = 100
CROWD = 50
"""Readers of the stream at once, beside the one whose times are taken."""

Way = Callable[[Service, Simulated, int], list[float]]
"""Waits for so many events, one after the other; returns how long each took, in milliseconds."""

Times = dict[int, float]
"""When each event was there, by its position, in seconds of the epoch."""


def measure(stack: Stack) -> Figure:
    """Measure all ways on both set-ups."""
    figure = Figure(
        "feed",
        "one event at a time: milliseconds from Meld's answer, over the commit, until who waits for it has it",
        ["set-up", "reader", "samples", "median", "p95", "most"],
    )
    for setup in SETUPS:
        _measure(figure, stack, setup)
    figure.notes.append(
        "From the event's own `time`, which is when the worker had Meld's answer: what lies between that and the"
        " commit, and the commit itself, are in the figures. A moment of the commit is not to be had on SQLite."
    )
    return figure


def _measure(figure: Figure, stack: Stack, setup: Setup) -> None:
    _measure_ways(
        figure,
        stack,
        setup,
        {
            "long poll": _by_long_poll,
            "stream": partial(_by_stream, crowd=0),
            f"stream, one of {CROWD + 1}": partial(_by_stream, crowd=CROWD),
            "push": partial(_by_push, stack),
        },
    )
    # In a service of its own: the handler would be called beside the other ways, too.
    came = stack.folder() / "came"
    env = {"MELDWATCH_HANDLERS": bench_handler.__name__, bench_handler.PATH: str(came)}
    _measure_ways(figure, stack, setup, {"handler": partial(_by_handler, came)}, env)


def _measure_ways(figure: Figure, stack: Stack, setup: Setup, ways: Mapping[str, Way], env: Env = None) -> None:
    (port,) = free_ports(1)
    with stack.simulated_meld(port, 0) as meld, setup(stack, port=port, meld=meld.url, env=env) as service:
        for way, samples in ways.items():
            values = samples(service, meld, 10 if stack.is_quick else SAMPLES)
            figure.rows.append(
                [DESCRIPTIONS[service.name], way, str(len(values)), f"{median(values):.1f}",
                 f"{quantiles(values, n=20)[-1]:.1f}", f"{max(values):.1f}"]
            )  # fmt: skip
            figure.raw[f"{service.name}, {way}"] = values


def _by_long_poll(service: Service, meld: Simulated, count: int) -> list[float]:
    client, times, is_over = Client(service.port), Times(), threading.Event()

    def follow(after: int) -> None:
        while not is_over.is_set():
            events, after = client.events(after, wait=2)
            times.update(dict.fromkeys((event["position"] for event in events), time.time()))

    reader = threading.Thread(target=follow, args=[client.end_of_feed()])
    reader.start()
    try:
        return _samples(service, meld, count, times.get)
    finally:
        is_over.set()
        reader.join()


def _by_stream(service: Service, meld: Simulated, count: int, *, crowd: int) -> list[float]:
    url = f"http://127.0.0.1:{service.port}"
    readers = [Reader(url, TOKEN) for _ in range(crowd + 1)]
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


def _by_push(stack: Stack, service: Service, meld: Simulated, count: int) -> list[float]:
    client = Client(service.port)
    with consumer(stack, 0) as consumed:
        id_ = client.subscribe("bench", consumed.url)
        values = _samples(service, meld, count, consumed.received)
        client.act("DELETE", f"/api/subscriptions/{id_}")
        return values


def _by_handler(path: Path, service: Service, meld: Simulated, count: int) -> list[float]:
    def received(position: int) -> float | None:
        lines = path.read_text().splitlines() if path.exists() else []
        times = dict(line.split(" ") for line in lines)
        return float(times[str(position)]) if str(position) in times else None

    return _samples(service, meld, count, received)


def _samples(service: Service, meld: Simulated, count: int, received: Callable[[int], float | None]) -> list[float]:
    """Change a connection so many times, and return how long each event took, in milliseconds."""
    client = Client(service.port)
    (connection_id,) = meld.create(1)
    values = []
    # The first makes the connection known.
    for number in range(count + 1):
        after = client.end_of_feed()
        meld.change(connection_id, f"STATUS_{number}")
        assert client.send(make(service.url, connection_id, status=f"STATUS_{number}")) == 200
        until(partial(received, after + 1), 30, "the event")
        events, _next = client.events(after)
        at = received(after + 1)
        assert at is not None
        values.append(1000 * (at - datetime.fromisoformat(events[0]["time"]).timestamp()))
        until(service.is_read, 30, "the end of the reads")
    return values[1:]
