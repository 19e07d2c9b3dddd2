"""A process: parts that are started in order, watched, and stopped in reverse when a signal comes."""

import gc
import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Protocol

from runtime import logs

log = logs.get(__name__)

GARBAGE = 20_000
"""Objects made and not let go of before the collector looks at them; hundreds of requests at once are no garbage."""

STOP_SECONDS = 9.0
"""The contract gives 10. Whatever is not done by then is found again by its lease and its row."""


class Component(Protocol):
    """Something that runs beside others in one process."""

    def start(self) -> None:
        """Start, without waiting for work."""

    def stop(self) -> None:
        """End within a few seconds."""

    def is_alive(self) -> bool:
        """Return whether it does its work; a process with a dead part ends, so that it is started anew."""


def run(parts: Sequence[Component], *, stop_seconds: float = STOP_SECONDS) -> int:
    """Run parts until SIGTERM or SIGINT comes, or until one of them dies; return the exit code.

    Args:
        parts: In the order of starting; what uses another comes after it.
        stop_seconds: How long they may take to stop; then the process ends without them, with the same exit code.
    """
    # What is there by now stays. Left in, each full collection would look at all of it, 80 ms long, once a second.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)
    stopping = threading.Event()

    def stop(signum: int, _frame: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(signum).name)
        stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    code = 1
    started: list[Component] = []
    try:
        for part in parts:
            part.start()
            started.append(part)
        code = _watch(parts, stopping)
    finally:
        _end_at_the_latest(stop_seconds, code)
        for part in reversed(started):
            _stop(part)
    return code


def _watch(parts: Sequence[Component], stopping: threading.Event) -> int:
    while not stopping.wait(0.5):
        for part in parts:
            if not part.is_alive():
                log.error("a part of the process has died", part=type(part).__name__)
                return 1
    return 0


def _stop(part: Component) -> None:
    try:
        part.stop()
    except Exception:
        # The others must be stopped all the same, and a signal was obeyed.
        log.exception("a part of the process did not stop", part=type(part).__name__)


def _end_at_the_latest(seconds: float, code: int) -> None:
    """End the process even if a part hangs: everything that matters is committed or leased."""
    timer = threading.Timer(seconds, os._exit, args=[code])
    timer.daemon = True
    timer.start()
