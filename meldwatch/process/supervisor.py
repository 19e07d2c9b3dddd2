"""Supervisor of a process: starts components in order, watches them, and stops them in reverse on a signal.

SIGTERM and SIGINT cause a graceful shutdown with exit code 0; a dead component ends the process with exit code 1.
"""

import gc
import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Protocol

from runtime import logs

log = logs.get_logger(__name__)

GC_THRESHOLD = 20_000
"""New objects before a garbage collection. Hundreds of concurrent requests hold many objects that are no garbage."""

STOP_SECONDS = 9.0
"""A process must end within 10 s of a signal. What is not done by then is found again by its lease."""


class Component(Protocol):
    """A part of a process that runs beside others, such as the HTTP server or the worker threads."""

    def start(self) -> None:
        """Start and return at once."""

    def stop(self) -> None:
        """Stop within a few seconds (graceful shutdown)."""

    def is_alive(self) -> bool:
        """Return whether it works. A process with a dead component ends, so that it is restarted."""


def run(components: Sequence[Component], *, stop_seconds: float = STOP_SECONDS) -> int:
    """Run components until SIGTERM or SIGINT, or until one of them dies; return the exit code.

    Args:
        components: In the order in which they start: a component comes after those that it uses.
        stop_seconds: The timeout of the graceful shutdown. Then the process ends, with the same exit code.
    """
    # Objects that exist by now stay. Unfrozen, they would make each full collection take 80 ms, once a second.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    stopping = threading.Event()

    def stop(signum: int, _frame: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(signum).name)
        stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    code = 1
    started: list[Component] = []
    try:
        for component in components:
            component.start()
            started.append(component)
        code = _watch(components, stopping)
    finally:
        _schedule_exit(stop_seconds, code)
        for component in reversed(started):
            _stop(component)
    return code


def _watch(components: Sequence[Component], stopping: threading.Event) -> int:
    while not stopping.wait(0.5):
        for component in components:
            if not component.is_alive():
                log.error("a component has died", component=type(component).__name__)
                return 1
    return 0


def _stop(component: Component) -> None:
    try:
        component.stop()
    except Exception:
        # The others must stop as well, and the exit code stays: the process has obeyed a signal.
        log.exception("a component did not stop", component=type(component).__name__)


def _schedule_exit(seconds: float, code: int) -> None:
    """End the process even if a component hangs: everything that matters is committed or leased."""
    timer = threading.Timer(seconds, os._exit, args=[code])
    timer.daemon = True
    timer.start()
